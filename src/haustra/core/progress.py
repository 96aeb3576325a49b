"""What a long stage tells about itself; `cli` shows it, a library caller may ignore it."""

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
        """Take the bar away."""


class SilentProgress:
    """Shows nothing: the default of every library function."""

    def line(self, text: str) -> None:
        """Ignore the line."""

    def start(self, description: str, *, total: float) -> None:
        """Ignore the bar."""

    def update(self, completed: float, *, note: str = "") -> None:
        """Ignore the state."""

    def stop(self) -> None:
        """Ignore the end."""


def track(
    items: Iterable[Item], *, progress: Progress, description: str, total: int
) -> Iterator[Item]:
    """Yield `items` while a bar counts them up to `total`."""
    progress.start(description, total=total)
    try:
        for count, item in enumerate(items, start=1):
            yield item
            progress.update(count)
    finally:
        progress.stop()
