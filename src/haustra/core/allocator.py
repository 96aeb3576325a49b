"""How the C library keeps memory between training steps, simulated frames or decoded images."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep what it frees for the next step. Only glibc; nothing elsewhere.

    Each step of a training, each simulated frame and each decoded image allocates and frees the
    same blocks. By default glibc returns large ones to the system at once, and the next step pays
    for every page again: a tenth to a fifth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def release_freed_memory() -> None:
    """Give what this process has freed back to the system. Only glibc; nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
