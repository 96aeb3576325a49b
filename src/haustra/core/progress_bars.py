"""Progress displays: a bar on a terminal, a bar in a notebook, a line now and then elsewhere."""

import html
import sys
import time
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from haustra.core.progress import Progress, SilentProgress

SECONDS_BETWEEN_PLAIN_LINES = 10.0
SECONDS_BETWEEN_NOTEBOOK_UPDATES = 0.2


class TerminalProgress:
    """Shows a bar on a terminal, and a line every ten seconds in a pipe or file.

    Args:
        to_stderr: Write to standard error instead of standard output.
    """

    def __init__(self, *, to_stderr: bool) -> None:
        self._console = Console(stderr=to_stderr, soft_wrap=True, highlight=False)
        self._bar: RichProgress | None = None
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
            self._bar = RichProgress(
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
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None


class NotebookProgress:
    """Shows a bar and the last lines below a notebook cell, as one output that is updated.

    It needs IPython alone, not ipywidgets.
    """

    NUM_LINES = 12  # lines kept below the bar

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._handle: Any = None
        self._description, self._note = "", ""
        self._total, self._completed = 1.0, 0.0
        self._last_update_s = 0.0

    def line(self, text: str) -> None:
        """Show one line of text below the bar."""
        self._lines = [*self._lines, text][-self.NUM_LINES :]
        self._show()

    def start(self, description: str, *, total: float) -> None:
        """Begin a bar that ends at `total`."""
        self._description, self._note = description, ""
        self._total, self._completed = max(total, 1e-9), 0.0
        self._show()

    def update(self, completed: float, *, note: str = "") -> None:
        """Move the bar to `completed`, with a short note beside it."""
        self._completed, self._note = completed, note
        if time.monotonic() - self._last_update_s >= SECONDS_BETWEEN_NOTEBOOK_UPDATES:
            self._show()

    def stop(self) -> None:
        """Remove the bar; the lines stay."""
        self._description = ""
        self._show()

    def _show(self) -> None:
        ipython: Any = import_module("IPython.display")
        self._last_update_s = time.monotonic()
        bar = ""
        if self._description:
            share = min(1.0, self._completed / self._total)
            bar = (
                f"<div>{html.escape(self._description)} "
                f'<progress value="{share:.3f}" max="1"></progress> '
                f"{share:.0%} {html.escape(self._note)}</div>"
            )
        text = "\n".join(html.escape(line) for line in self._lines)
        content = ipython.HTML(f"{bar}<pre>{text}</pre>" if text else bar)
        if self._handle is None:
            self._handle = ipython.display(content, display_id=True)
        else:
            self._handle.update(content)


def is_notebook() -> bool:
    """Return True in a Jupyter notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def choose_progress(progress: bool | Progress | None) -> Progress:  # noqa: FBT001
    """Return the display for a call of the Python API.

    Args:
        progress: True shows progress and False shows none. None shows it where a person can see
            it: in a notebook and on a terminal. A `Progress` object is used as it is.
    """
    if progress is None:
        progress = is_notebook() or sys.stderr.isatty()
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return SilentProgress()
    return NotebookProgress() if is_notebook() else TerminalProgress(to_stderr=True)


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that reads best, such as `45 s` or `2.5 h`."""
    for name, size in (("h", 3600), ("min", 60)):
        if seconds >= 100 * size / 60:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
