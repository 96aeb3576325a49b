"""Advisory locks on folders: one process at a time works in a folder, and the others learn who."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LOCK_NAME = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Errors of file systems that have no locks, such as some network disks."""


class LockedError(Exception):
    """Another process works in the folder.

    Attributes:
        holder: Words that name it, such as `process 71 on host gpu1, since 05:31:07 UTC`.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked_folder(folder: Path) -> Iterator[str | None]:
    """Hold the lock of a folder during the block; the folder is created where it is missing.

    The operating system frees the lock of a process that ends, however it ends. An empty folder
    does not stay.

    Yields:
        None, or the reason why the file system has no locks: then nothing is locked.

    Raises:
        LockedError: Another process holds the lock.
    """
    path = folder / LOCK_NAME
    try:
        handle = _open_locked(path)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield error.strerror
        return
    try:
        value = {"process_id": os.getpid(), "host": socket.gethostname(), "since_unix": time.time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(value).encode(), 0)
        yield None
    finally:
        # Removed before it is free: whoever opened it meanwhile finds that its name is gone.
        if _is_at(path, handle):
            path.unlink()
        with suppress(OSError):  # not empty
            folder.rmdir()
        os.close(handle)


def _open_locked(path: Path) -> int:
    """Open a lock file, lock it and return its handle."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):
            if os.path.lexists(path.parent) and not path.parent.is_dir():
                raise
            continue  # its holder has just removed the empty folder
        try:
            if not _try_lock(handle):
                raise LockedError(_describe_holder(handle))
            if _is_at(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just removed the file; lock the next one


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file still has a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(handle: int) -> bool:
    """Lock an open file without waiting; False where another process holds it.

    Everything about the operating system is here: Windows would have `msvcrt.locking`.
    """
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _describe_holder(handle: int) -> str:
    """Return words for the process that a lock file names."""
    for _ in range(20):  # its holder locks first and writes its name a moment later
        try:
            value: Any = json.loads(os.pread(handle, 4096, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value["since_unix"]))
            return f"process {value['process_id']} on host {value['host']}, since {since}"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return "another process"
