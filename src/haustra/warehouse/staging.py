"""Staging folders, which hold the finished parts of a version until it is whole.

Every ETL has its own folder, `<output root>/.staging/<random name>/`, and locks the file `lock` in
it as long as it runs; the system frees the lock however the process ends. So two ETLs never change
the same file, and the folder of a killed ETL is distinguished from that of a running one:

    lock
    version/                    becomes v<version>/ by one rename
        shards/<name>.safetensors
        samples.parquet, manifest.json
    finished/<content>.json     one per finished shard: its manifest entry and its samples' sizes
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STAGING_NAME = ".staging"


def _claim_folder(root: Path) -> tuple[Path, int]:
    """Make and lock a folder under `root`; return it and the descriptor that holds the lock."""
    while True:
        folder = root / secrets.token_hex(8)
        with suppress(FileNotFoundError):  # another ETL removed the empty folder: try again
            folder.mkdir(parents=True)
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
            # On a file system without locks, the folders of killed ETLs are never removed.
            if _try_lock(lock) is not False and (folder / "lock").exists():
                return folder, lock
            os.close(lock)


def _try_lock(lock: int) -> bool | None:
    """Lock a file; return False if another process holds it, None if it cannot be locked."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of ETLs that are not running any more."""
    for folder in list(root.iterdir()):
        with suppress(OSError):  # another ETL may be removing it too
            names = [path.name for path in folder.iterdir()]
            if not names:
                folder.rmdir()  # fails, as intended, if another ETL has just made it
            elif "lock" not in names:
                shutil.rmtree(folder)  # an ETL was killed while it removed the folder
            else:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    lock = os.open(folder / "lock", os.O_RDWR)
    try:
        if _try_lock(lock):
            shutil.rmtree(folder)
    finally:
        os.close(lock)


@contextmanager
def staging_folder(output_root: Path) -> Iterator[Path]:
    """Yield a locked staging folder with `version/shards/` and `finished/` in it.

    When the block succeeds, the folder is removed, with the folders of ETLs that are not running
    any more. After an error it stays for the next ETL if it holds a finished shard.
    """
    root = output_root / STAGING_NAME
    folder, lock = _claim_folder(root)
    try:
        (folder / "version" / "shards").mkdir(parents=True)
        (folder / "finished").mkdir()
        yield folder
    except BaseException:
        if not list(folder.glob("finished/*.json")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_abandoned(root)
    finally:
        os.close(lock)
        with suppress(OSError):  # not empty, or gone
            root.rmdir()
