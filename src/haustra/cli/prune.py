"""`haustra prune`."""

from dataclasses import asdict
from typing import Annotated

from haustra.captures.prune import PruneConfig, prune_captures
from haustra.cli.terminal import (
    Flags,
    Json,
    build_progress,
    print_json,
    print_lines,
    print_long_table,
    print_problems,
)

REASONS = ("invalid", "missing", "without_image", "duplicate", "empty", "unlabelled")


def prune(*, config: Annotated[PruneConfig | None, Flags] = None, as_json: Json = False) -> None:
    """Copy captures without unreadable, duplicate and invalid frames; the source stays as it is."""
    config = config or PruneConfig()
    results = prune_captures(config, progress=build_progress(as_json=as_json))
    if as_json:
        print_json([asdict(result) for result in results])
        return
    rows = [
        [result.kept, *(len(result.dropped.get(reason, [])) for reason in REASONS)]
        for result in results
    ]
    print_long_table(
        ["run", "kept", *(reason.replace("_", " ") for reason in REASONS)],
        rows={result.run_id: row for result, row in zip(results, rows, strict=True)},
        total=[sum(column) for column in zip(*rows, strict=True)],
    )
    conflicts = [text for result in results for text in result.conflicts]
    if conflicts:
        print_lines(f"{len(conflicts)} frame(s) have the image of another with other boxes:")
    print_problems(conflicts)
    print_lines(
        f"every dropped frame is named in {config.output_root / 'prune_report.json'}",
        f"next: haustra etl --captures {config.output_root}",
    )
