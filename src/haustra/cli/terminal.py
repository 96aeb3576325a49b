"""What the commands show: a bar on a terminal, plain lines elsewhere, JSON when asked."""

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SECONDS_BETWEEN_PLAIN_LINES = 10.0


class TerminalProgress:
    """Shows progress with rich on a terminal, and a line now and then in a pipe or file."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._console = Console(stderr=to_stderr, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._description, self._total = "", 1.0
        self._started = self._last_plain_line = 0.0

    def line(self, text: str) -> None:
        """Show one line of text above the bar."""
        self._console.print(text, markup=False)

    def start(self, description: str, *, total: float) -> None:
        """Begin a bar that ends at `total`."""
        self._description, self._total = description, max(total, 1e-9)
        self._started = self._last_plain_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(description, total=self._total, note="")
            self._bar.start()

    def update(self, completed: float, *, note: str = "") -> None:
        """Move the bar to `completed`, with a short note beside it."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=completed, note=note)
            return
        now = time.monotonic()
        if now - self._last_plain_line >= SECONDS_BETWEEN_PLAIN_LINES:
            self._last_plain_line = now
            share = 100 * completed / self._total
            text = f"{self._description}: {share:.0f} %" + (f", {note}" if note else "")
            if completed > 0:
                left_s = (now - self._started) * (self._total - completed) / completed
                text += f", {duration_text(left_s)} left"
            self.line(text)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that it is easily read in."""
    for name, size in (("h", 3600), ("min", 60)):
        if seconds >= 100 * size / 60:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def build_progress(*, as_json: bool) -> TerminalProgress:
    """Return a progress display; with JSON on standard output it goes to standard error."""
    return TerminalProgress(to_stderr=as_json)


def print_json(value: Any) -> None:
    """Print a JSON value, indented, to standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines as they are to standard output."""
    for line in lines:
        print(line)


def print_problems(problems: list[str], *, shown: int = 5) -> None:
    """Print the first problems and how many more there are."""
    for problem in problems[:shown]:
        print(f"  {problem}")
    if len(problems) > shown:
        print(f"  ... and {len(problems) - shown} more")


def print_table(columns: list[str], *, rows: list[list[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own, and a cut number would be a wrong one.
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, width=width).print(table)
