"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file written there becomes `path` at the end.

    Readers see the old file or the whole new one, never a part. The block must write the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            # A full disk does not say which file it has no room for; nobody knows the temporary.
            error.filename = str(path)
        raise
    _sync(path.parent)


def write_bytes_atomic(path: Path, *, data: bytes) -> None:
    """Write `data` to `path`; readers see the old file or the whole new one, never a part."""
    with writing_file(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path, *, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes_atomic(path, data=text.encode())


def write_json_atomic(path: Path, *, value: Any) -> None:
    """Write a JSON value, indented, without NaN or infinity, whole or not at all."""
    write_text_atomic(path, text=json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: what the file should be, for the message ("a warehouse manifest").

    Raises:
        HaustraError: the file is missing, unreadable or not JSON.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise HaustraError(f"{path} does not exist; expected {what}") from None
    except OSError as error:
        raise HaustraError(f"{path} cannot be read as {what}: {error}") from None
    return parse_json(data, name=str(path), what=what)


def parse_json(data: bytes, *, name: str, what: str) -> Any:
    """Parse the bytes of a JSON file that is called `name` in messages.

    Raises:
        HaustraError: they are not JSON.
    """
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise HaustraError(f"{name} cannot be read as {what}: {error}") from None
    except json.JSONDecodeError as error:
        raise HaustraError(
            f"{name} is not JSON (line {error.lineno}: {error.msg}); expected {what}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 10,000 open brackets
        raise HaustraError(f"{name} is not usable JSON ({error}); expected {what}") from None


@contextmanager
def building_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends without an error.

    An existing `path` is replaced only with `overwrite`, and only after the new folder is whole.

    Raises:
        HaustraError: `path` exists and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise HaustraError(f"{path} exists already; remove it or pass --overwrite")
    path = path.resolve()  # a symbolic link stays, and the folder that it names is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        move_folder(temporary, target=path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def move_folder(folder: Path, *, target: Path) -> None:
    """Rename `folder` to `target`; a folder that stands there makes way, and is removed after.

    Both must lie on one file system. Of two processes that do this at once the later one stays.
    """
    _sync(folder)
    retired = []
    while not _rename_to_free_name(folder, target=target):
        retired.append(_temporary_sibling(target))
        with suppress(FileNotFoundError):  # where another process was quicker
            target.replace(retired[-1])
    for old in retired:
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _rename_to_free_name(folder: Path, *, target: Path) -> bool:
    try:
        folder.replace(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def remove_abandoned(path: Path) -> None:
    """Remove what `building_folder` or `writing_file` of `path` left in processes that were killed.

    The name of `path` may have `*` for many.
    """
    for left in path.parent.glob(f".{path.name}.*.*"):
        owner = left.name.split(".")[-2]
        if not owner.isdigit() or _is_running(int(owner)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def link_or_copy(source: Path, *, target: Path) -> None:
    """Hard-link `source` as `target`, or copy its bytes where the file system cannot link."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def resolve_inside(root: Path, *, relative: str) -> Path | None:
    """Return the file that `relative` names inside `root`, or None where it would lie outside.

    Absolute paths, `..` and symbolic links that leave `root` all count as outside, and so does
    what cannot name a file: a loop of links, or text that no file system takes.
    """
    return resolve_below(root.resolve(), relative=relative)


def resolve_below(resolved_root: Path, *, relative: str) -> Path | None:
    """Do the same for a root that is resolved already: for many files of one root."""
    if not relative or "\0" in relative or Path(relative).is_absolute():
        return None
    try:
        resolved = (resolved_root / relative).resolve()
    except (OSError, RuntimeError, UnicodeEncodeError):
        return None
    return resolved if resolved.is_relative_to(resolved_root) else None
