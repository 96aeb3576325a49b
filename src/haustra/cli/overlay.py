"""`haustra overlay`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.captures.overlay import OverlayConfig, draw_overlays
from haustra.cli.terminal import build_progress, print_json, print_lines, print_problems


def overlay(
    run: Path,
    /,
    *,
    config: Annotated[OverlayConfig | None, Parameter(name="*")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Draw a run's labelled boxes on its frames.

    Parameters
    ----------
    run
        Run folder.
    as_json
        Print JSON to standard output.
    """
    result = draw_overlays(
        run, config=config or OverlayConfig(), progress=build_progress(as_json=as_json)
    )
    if as_json:
        pictures = [str(picture) for picture in result.pictures]
        print_json({"pictures": pictures, "problems": result.problems})
        return
    print_lines([f"drew {len(result.pictures)} pictures in {result.pictures[0].parent}"])
    print_problems(result.problems)
