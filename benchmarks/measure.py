"""Shared by the benchmarks: their command line, timing in turns, and tables.

Absolute times drift on a shared machine. A ratio of two things that were timed in turns does not,
so the benchmarks print the median ratio of the rounds with the lowest and the highest.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

NOTHING = "-"
"""A cell of a table for which nothing was measured."""


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that prints a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios_in_turns(
    limit: Callable[[], object], ours: Callable[[], object], *, rounds: int = 5
) -> list[float]:
    """Return time(limit) / time(ours) of each round, after one call of both: 1 is the limit."""
    limit()
    ours()
    return [seconds_of(limit) / seconds_of(ours) for _ in range(rounds)]


def range_text(values: Sequence[float], *, digits: int = 2) -> str:
    """Return `median (lowest to highest)` as text."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table as lines, its columns aligned for reading as text."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (columns, *rows)
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
