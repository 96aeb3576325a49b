"""Progress reports of long stages, which a command line or notebook can show."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Receives lines and the state of one bar at a time."""

    def line(self, text: str) -> None:
        """Show one line of text."""

    def start(self, description: str, *, total: float) -> None:
        """Begin a bar that ends at `total`."""

    def update(self, completed: float, *, note: str = "") -> None:
        """Move the bar to `completed`, with a short note beside it."""

    def stop(self) -> None:
        """Remove the bar."""


class SilentProgress:
    """Ignores all reports: the default of every library function."""

    def line(self, text: str) -> None:
        """Ignore the line."""

    def start(self, description: str, *, total: float) -> None:
        """Ignore the bar."""

    def update(self, completed: float, *, note: str = "") -> None:
        """Ignore the state."""

    def stop(self) -> None:
        """Ignore the end."""


def track(
    items: Iterable[Item], *, progress: Progress, description: str, total: int, unit: str = "items"
) -> Iterator[Item]:
    """Yield `items` while a bar counts them up to `total` and shows their number per second."""
    progress.start(description, total=total)
    started = time.monotonic()
    try:
        for count, item in enumerate(items, start=1):
            yield item
            rate = count / max(time.monotonic() - started, 1e-9)
            progress.update(count, note=f"{rate:.{0 if rate >= 10 else 1}f} {unit}/s")
    finally:
        progress.stop()
