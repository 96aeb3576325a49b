"""`haustra overlay`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.captures.overlay import OverlayConfig, draw_overlays
from haustra.cli.terminal import Json, build_progress, print_json, print_lines, print_problems


def overlay(
    run: Annotated[Path, Parameter(help="Run folder.")],
    /,
    *,
    config: Annotated[OverlayConfig | None, Parameter(name="*")] = None,
    as_json: Json = False,
) -> None:
    """Draw a run's labeled boxes on its frames."""
    progress = build_progress(as_json=as_json)
    result = draw_overlays(run, config=config, progress=progress)
    if as_json:
        pictures = [str(picture) for picture in result.pictures]
        print_json({"pictures": pictures, "problems": result.problems})
        return
    print_lines([f"drew {len(result.pictures)} pictures in {result.pictures[0].parent}"])
    print_problems(result.problems)
