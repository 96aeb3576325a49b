"""`haustra view`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Flags, build_progress, print_result
from haustra.core.errors import HaustraError
from haustra.view.config import ViewConfig


def view(
    *,
    config: Annotated[ViewConfig | None, Flags] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show a detector at work on a page in the browser, or run it over a source without a page.

    Args:
        as_json: Print a headless run's numbers as JSON to standard output.
    """
    settings = config or ViewConfig()
    if settings.headless:
        _run_headless(settings, as_json=as_json)
        return
    from haustra.view.server import serve

    serve(settings, print_line=print)


def _run_headless(settings: ViewConfig, *, as_json: bool) -> None:
    from haustra.view.session import run_headless

    result = run_headless(settings, progress=build_progress(as_json=as_json))
    numbers = result.numbers
    lines = [
        f"{numbers['detector']} on {numbers['source']}: {numbers['boxes']} boxes on "
        f"{numbers['frames_with_boxes']} of {numbers['frames']} frames, "
        f"{numbers['frames_per_s']:g} frames/s, inference p50 {numbers['inference_p50_ms']:g} "
        f"ms, p95 {numbers['inference_p95_ms']:g} ms"
    ]
    if found := numbers["labelled_frames"]:
        lines.append(
            f"against the labels: {found['hit']} frames with a polyp flagged, {found['miss']} "
            f"missed, {found['false']} clean frames flagged, {found['clean']} not"
        )
    lines += [f"{numbers['source']}: {note}" for note in numbers["notes"]]
    value = {"folder": result.folder, **numbers}
    print_result(value, *lines, f"wrote {result.folder}", as_json=as_json)
    if unreadable := numbers["unreadable"]:
        more = f" (and {len(unreadable) - 1} more)" if unreadable[1:] else ""
        raise HaustraError(
            f"{numbers['frames']} frames are done, others cannot be read: {unreadable[0]}{more}"
        )
