"""What the commands print: progress, lines, tables, and JSON where asked."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from haustra.core.progress_bars import TerminalProgress


def build_progress(*, as_json: bool) -> TerminalProgress:
    """Return a progress display; with JSON on standard output it goes to standard error."""
    return TerminalProgress(to_stderr=as_json)


def print_json(value: Any) -> None:
    """Print a JSON value, indented, to standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines unchanged to standard output."""
    for line in lines:
        print(line)


def print_problems(problems: list[str], *, shown: int = 5) -> None:
    """Print the first problems and how many more there are."""
    for problem in problems[:shown]:
        print(f"  {problem}")
    if len(problems) > shown:
        print(f"  ... and {len(problems) - shown} more")


def print_table(columns: list[str], *, rows: list[list[str]]) -> None:
    """Print a table with its first column aligned left and the others right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own, and rich would cut numbers to fit 80 columns.
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, width=width).print(table)
