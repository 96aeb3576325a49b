"""Settings of the C library's memory allocator. They act only with glibc."""

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = 2**31 - 1


def _glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform.startswith("linux") else None


def keep_freed_memory() -> None:
    """Keep freed memory in this process for later use.

    Each training step, simulated frame and decoded image allocates and frees the same blocks.
    glibc returns large blocks to the system at once by default, and the next step then spends a
    tenth to a fifth of its time on new pages.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def release_freed_memory() -> None:
    """Return freed memory of this process to the system."""
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)
