"""`haustra prune`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.captures.prune import PruneConfig, prune_captures
from haustra.cli.terminal import build_progress, print_json, print_lines, print_table

REASONS = ("invalid", "missing", "without_image", "duplicate", "empty", "unlabelled")


def prune(
    *,
    config: Annotated[PruneConfig | None, Parameter(name="*")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Copy captures without unreadable, duplicate and invalid frames; the source stays as it is.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    config = config or PruneConfig()
    results = prune_captures(config, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(
            [
                {"run_id": result.run_id, "kept": result.kept, "dropped": result.dropped}
                for result in results
            ]
        )
        return
    rows = [
        [
            result.run_id,
            str(result.kept),
            *(str(len(result.dropped.get(reason, []))) for reason in REASONS),
        ]
        for result in results
    ]
    totals = [str(sum(int(row[column]) for row in rows)) for column in range(1, len(rows[0]))]
    shown = rows if len(rows) <= 12 else [*rows[:10], ["..."] + [""] * len(totals)]
    print_table(
        ["run", "kept", *(reason.replace("_", " ") for reason in REASONS)],
        rows=[*shown, ["total", *totals]],
    )
    print_lines(
        [
            f"every dropped frame is named in {config.output_root / 'prune_report.json'}",
            f"next: haustra etl --captures {config.output_root}",
        ]
    )
