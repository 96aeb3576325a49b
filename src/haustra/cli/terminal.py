"""Output of the commands: progress, lines, tables, and JSON on request."""

import json
import shutil
import sys
from typing import Annotated, Any

from cyclopts import Parameter
from rich.cells import cell_len

from haustra.core.progress_bars import TerminalProgress

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON to standard output.")]
"""Flag of every command that can print JSON."""
Flags = Parameter(name="*")  # marks a settings dataclass each of whose fields is a flag


def build_progress(*, as_json: bool) -> TerminalProgress:
    """Return a progress display; with JSON on standard output it goes to standard error."""
    return TerminalProgress(to_stderr=as_json)


def print_result(value: Any, *lines: str, as_json: bool) -> None:
    """Print a JSON value, indented, with paths as text, or else lines, to standard output."""
    if as_json:
        lines = (json.dumps(value, indent=2, allow_nan=False, default=str),)
    for line in lines:
        print(line)


def problem_lines(problems: list[str], *, shown: int = 5) -> list[str]:
    """Return the first problems and how many more there are."""
    more = [f"... and {len(problems) - shown} more"] if len(problems) > shown else []
    return [f"  {text}" for text in problems[:shown] + more]


def table_lines(columns: list[str], *, rows: list[list[str]]) -> list[str]:
    """Return a table with its first column aligned left and the others right.

    Nothing is shortened: on a terminal that is too narrow, the columns that do not fit follow
    below, beside the first column again.
    """
    table = [columns, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    blocks: list[list[int]] = [[]]
    for number in range(1, len(columns)):
        used = widths[0] + sum(2 + widths[other] for other in blocks[-1])
        if blocks[-1] and used + 2 + widths[number] > room:
            blocks.append([])
        blocks[-1].append(number)
    lines = []
    for block in blocks:
        for row in table:
            cells = [" " * (widths[n] - cell_len(row[n])) + row[n] for n in block]
            first = row[0] + " " * (widths[0] - cell_len(row[0]))
            lines.append("  ".join([first, *cells]).rstrip())
    return lines


def long_table_lines(
    columns: list[str], *, rows: dict[str, list[int]], total: list[int], shown: int = 12
) -> list[str]:
    """Return a table of counts by name with their total; of more than `shown` rows the first."""
    names = list(rows) if len(rows) <= shown else list(rows)[: shown - 2]
    texts = [[name, *map(str, rows[name])] for name in names]
    if len(names) < len(rows):
        texts.append(["...", *("" for _ in total)])
    return table_lines(columns, rows=[*texts, ["total", *map(str, total)]])
