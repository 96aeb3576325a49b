"""Work in threads ahead of its use, with results in order."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
