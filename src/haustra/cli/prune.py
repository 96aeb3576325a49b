"""`haustra prune`."""

from dataclasses import asdict
from typing import Annotated

from haustra.captures.prune import PruneConfig, prune_captures
from haustra.cli.terminal import (
    Flags,
    Json,
    build_progress,
    long_table_lines,
    print_result,
    problem_lines,
)

REASONS = ("invalid", "missing", "without_image", "duplicate", "empty", "unlabelled")


def prune(*, config: Annotated[PruneConfig | None, Flags] = None, as_json: Json = False) -> None:
    """Copy captures without unreadable, duplicate and invalid frames; the source stays as it is."""
    config = config or PruneConfig()
    results = prune_captures(config, progress=build_progress(as_json=as_json))
    rows = [
        [result.kept, *(len(result.dropped.get(reason, [])) for reason in REASONS)]
        for result in results
    ]
    conflicts = [text for result in results for text in result.conflicts]
    found = f"{len(conflicts)} frame(s) have the image of another with other boxes:"
    print_result(
        [asdict(result) for result in results],
        *long_table_lines(
            ["run", "kept", *(reason.replace("_", " ") for reason in REASONS)],
            rows={result.run_id: row for result, row in zip(results, rows, strict=True)},
            total=[sum(column) for column in zip(*rows, strict=True)],
        ),
        *([found, *problem_lines(conflicts)] if conflicts else []),
        f"every dropped frame is named in {config.output_root / 'prune_report.json'}",
        f"next: haustra etl --captures {config.output_root}",
        as_json=as_json,
    )
