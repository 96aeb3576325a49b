"""Where an ETL keeps what it has finished until its version is whole.

Every ETL has a folder of its own, `<output root>/.staging/<random name>/`, and holds a lock on the
file `lock` in it as long as it runs; the system frees the lock however the process ends. So two
ETLs share no file that either changes, and what a killed one left behind is told from what a
running one needs:

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
    """Make a folder under `root` and lock it; return it and the descriptor that holds the lock."""
    while True:
        folder = root / secrets.token_hex(8)
        with suppress(FileNotFoundError):  # another ETL removed what was empty: try again
            folder.mkdir(parents=True)
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
            # A file system that cannot lock keeps what killed ETLs leave; nothing else changes.
            if _try_lock(lock) is not False and (folder / "lock").exists():
                return folder, lock
            os.close(lock)


def _try_lock(lock: int) -> bool | None:
    """Lock a file: True; False where another holds it; None where files cannot be locked here."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of ETLs that no longer run."""
    for folder in list(root.iterdir()):
        with suppress(OSError):  # another ETL may be removing it too
            names = [path.name for path in folder.iterdir()]
            if not names:
                folder.rmdir()  # fails, as it should, where another ETL has just made it
            elif "lock" not in names:
                shutil.rmtree(folder)  # an ETL was killed as it removed it
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

    When the block ends well it is removed, with all that ETLs which no longer run left behind.
    After an error it stays if it holds a finished shard, for the next ETL.
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
