"""Work in threads ahead of its use, with results in order, and its CPU time."""

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class CpuClock:
    """Adds up the CPU time of work in any thread."""

    def __init__(self) -> None:
        self._seconds: list[float] = []  # appends and pops of one list need no lock

    def timed(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Return `function(item)`, and count its seconds."""
        started = time.thread_time()
        result = function(item)
        self._seconds.append(time.thread_time() - started)
        return result

    def take(self) -> float:
        """Return the seconds of the work that has ended since the last call."""
        return sum(self._seconds.pop() for _ in range(len(self._seconds)))


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, num_ahead: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item in order, computing at most `num_ahead` items early.

    A caller that stops, by an error or Ctrl-C, waits only for items that have begun.
    """
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        ahead = [pool.submit(function, item) for item in islice(waiting, num_ahead)]
        while ahead:
            result = ahead.pop(0).result()
            ahead.extend(pool.submit(function, item) for item in islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
