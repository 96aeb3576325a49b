"""`haustra overlay`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.captures.overlay import OverlayConfig, draw_overlays
from haustra.cli.terminal import Flags, Json, build_progress, print_result, problem_lines


def overlay(
    run: Annotated[Path, Parameter(help="Run folder.")],
    /,
    *,
    config: Annotated[OverlayConfig | None, Flags] = None,
    as_json: Json = False,
) -> None:
    """Draw a run's labeled boxes on its frames."""
    result = draw_overlays(run, config=config, progress=build_progress(as_json=as_json))
    line = f"drew {len(result.pictures)} pictures in {result.pictures[0].parent}"
    print_result(asdict(result), line, *problem_lines(result.problems), as_json=as_json)
