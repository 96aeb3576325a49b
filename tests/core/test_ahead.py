import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest

from haustra.core.ahead import CpuClock


def test_a_clock_counts_the_time_of_its_work_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks))
    clock = CpuClock()
    assert clock.timed(abs, -2) == 2
    assert clock.timed(abs, -4) == 4
    assert clock.take() == 2.5
    assert clock.take() == 0


def test_a_clock_counts_the_work_of_every_thread() -> None:
    clock, meeting = CpuClock(), Barrier(4, timeout=60)

    def work(item: int) -> int:
        meeting.wait()  # four threads at once
        return sum(range(item))

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(partial(clock.timed, work), [10**5] * 4))) == 4
    assert clock.take() > 0
