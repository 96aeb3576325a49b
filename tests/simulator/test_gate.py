import sys
import time
from types import SimpleNamespace

import pytest

from haustra.core.errors import MissingExtraError
from haustra.core.progress import SilentProgress
from haustra.simulator import gate


def test_without_limits_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    gate.wait_for_room(max_cpu=100, min_free_mem=0, progress=SilentProgress())


def test_it_waits_until_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    available = iter([100 * 2**20, 200 * 2**20, 512 * 2**20])
    naps: list[float] = []
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=next(available)))
    monkeypatch.setattr(time, "sleep", naps.append)
    gate.wait_for_room(max_cpu=100, min_free_mem=512, progress=SilentProgress())
    assert naps == [gate.CHECK_EVERY_S] * 2


def test_it_waits_while_others_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    percent = iter([90.0, 20.0])
    naps: list[float] = []
    monkeypatch.setattr(gate, "others_cpu_percent", lambda: next(percent))
    monkeypatch.setattr(time, "sleep", naps.append)
    gate.wait_for_room(max_cpu=50, min_free_mem=0, progress=SilentProgress())
    assert naps == [gate.CHECK_EVERY_S]


def test_our_own_work_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(interval: float) -> float:
        total = 0
        end = time.process_time() + interval
        while time.process_time() < end:
            total += 1
        return 100.0

    monkeypatch.setattr("psutil.cpu_percent", busy)
    monkeypatch.setattr("psutil.cpu_count", lambda: 1)
    assert gate.others_cpu_percent() < 30


def test_without_psutil_the_extra_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError) as caught:
        gate.wait_for_room(max_cpu=50, min_free_mem=0, progress=SilentProgress())
    assert str(caught.value) == (
        "haustra datagen --max-cpu or --min-free-mem needs the package 'psutil', which is not "
        "installed; run: pip install 'haustra[simulate]'"
    )
