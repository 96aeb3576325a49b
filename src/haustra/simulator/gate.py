"""Waiting until a machine has room for another run."""

import time
from contextlib import suppress

from haustra.core.errors import needs_extra
from haustra.core.progress import Progress

CHECK_EVERY_S = 2.0
MEASURE_S = 0.3


def wait_for_room(*, max_cpu: float, min_free_mem: int, progress: Progress) -> None:
    """Return once other programs leave room; the first wait is reported in a line.

    They may use less than `max_cpu` percent of the CPU, where 100 does not wait, and at least
    `min_free_mem` MiB of memory must be available.

    Raises:
        MissingExtraError: psutil is needed and not installed.
    """
    if max_cpu >= 100 and min_free_mem == 0:
        return
    with needs_extra("simulate", needed_for="haustra datagen --max-cpu or --min-free-mem"):
        import psutil

    has_waited = False
    while psutil.virtual_memory().available < min_free_mem * 2**20 or (
        max_cpu < 100 and others_cpu_percent() >= max_cpu
    ):
        if not has_waited:
            progress.line(
                f"waiting until {min_free_mem} MiB are free and other programs use less than "
                f"{max_cpu:g} % of the CPU"
            )
            has_waited = True
        time.sleep(CHECK_EVERY_S)


def others_cpu_percent() -> float:
    """Return the percentage of the CPU that other programs use now."""
    import psutil

    own = psutil.Process()
    family = [own, *own.children(recursive=True)]
    ours = 0.0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.cpu_percent()  # the next call measures from here
    total = psutil.cpu_percent(interval=MEASURE_S)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            ours += process.cpu_percent() / (psutil.cpu_count() or 1)
    return max(0.0, total - ours)
