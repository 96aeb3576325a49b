"""Waiting until a machine has room for another run."""

import time
from typing import TYPE_CHECKING

from haustra.core.errors import MissingExtraError
from haustra.core.progress import Progress

if TYPE_CHECKING:
    import psutil

CHECK_EVERY_S = 2.0
MEASURE_S = 0.3


def wait_for_room(*, max_cpu: float, min_free_mem: int, progress: Progress) -> None:
    """Return once other programs leave room; say so when it has to wait.

    Args:
        max_cpu: percentage of the whole processor that other programs may use; 100 does not wait.
        min_free_mem: MiB of memory that must be available; 0 does not wait.
        progress: gets a line at the first wait.

    Raises:
        MissingExtraError: there is something to wait for and psutil is not installed.
    """
    if max_cpu >= 100 and min_free_mem == 0:
        return
    try:
        import psutil
    except ImportError:
        raise MissingExtraError(
            "psutil", extra="simulate", needed_for="haustra datagen --max-cpu or --min-free-mem"
        ) from None
    has_waited = False
    while True:
        enough_memory = psutil.virtual_memory().available >= min_free_mem * 2**20
        if enough_memory and (max_cpu >= 100 or others_cpu_percent() < max_cpu):
            return
        if not has_waited:
            progress.line(
                f"waiting until {min_free_mem} MiB are free and other programs use less than "
                f"{max_cpu:g} % of the processor"
            )
            has_waited = True
        time.sleep(CHECK_EVERY_S)


def others_cpu_percent() -> float:
    """Return the percentage of the whole processor that programs other than ours use now."""
    import psutil

    own = psutil.Process()
    family = [own, *own.children(recursive=True)]
    before = [_seconds(process) for process in family]
    total = psutil.cpu_percent(interval=MEASURE_S)
    used_s = sum(_seconds(process) - was for process, was in zip(family, before, strict=True))
    ours = 100 * used_s / MEASURE_S / (psutil.cpu_count() or 1)
    return max(0.0, total - ours)


def _seconds(process: "psutil.Process") -> float:
    import psutil

    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
