"""Atomic writing of files and folders: temporary name, fsync, rename."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError, option
from haustra.core.paths import StrPath


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_sibling(path: Path) -> Path:
    """Return a new name in the same folder, which `remove_abandoned` recognizes."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file that the block writes there becomes `path`.

    Readers see the old file or the complete new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            # The user does not know the temporary name.
            error.filename = str(path)
        raise
    _sync(path.parent)


def write_bytes_atomic(path: Path, *, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with writing_file(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path, *, text: str) -> None:
    """Write `text` as UTF-8 atomically; what has no form in it is escaped."""
    write_bytes_atomic(path, data=text.encode(errors="backslashreplace"))


def write_json_atomic(path: Path, *, value: Any) -> None:
    """Write a JSON value, indented, without NaN or infinity, atomically."""
    write_text_atomic(path, text=json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file; messages call it `what`, such as "a warehouse manifest"."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise HaustraError(f"{path} does not exist; expected {what}") from None
    except OSError as error:
        raise HaustraError(f"{path} cannot be read as {what}: {error}") from None
    return parse_json(data, name=str(path), what=what)


def parse_json(data: bytes, *, name: str, what: str) -> Any:
    """Parse the bytes of a JSON file that is called `name` in messages."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        problem = f"is not JSON (line {error.lineno}: {error.msg})"
    except (ValueError, RecursionError) as error:  # bad UTF-8, 5,000 digits, 10,000 open brackets
        problem = f"is not usable JSON ({error})"
    raise HaustraError(f"{name} {problem}; expected {what}")


def check_version(path: StrPath, *, name: str, found: object, known: int, remedy: str) -> None:
    """Check the format version of a file.

    Raises:
        HaustraError: It is not the known one; `remedy` is an advice for older files.
    """
    if found == known:
        return
    is_newer = isinstance(found, int) and found > known
    advice = "a newer haustra wrote it, so update haustra"
    raise HaustraError(
        f"{path} has {name} version {found!r}; this haustra reads version {known}; "
        + (advice if is_newer else f"use the haustra that wrote it, or {remedy}")
    )


@contextmanager
def building_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    An existing `path` is replaced only with `overwrite`, once the new folder is complete.

    Raises:
        HaustraError: `path` exists and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise HaustraError(f"{path} exists already; remove it or pass {option('overwrite', True)}")
    path = path.resolve()  # a symbolic link remains, and its target is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        move_folder(temporary, target=path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def move_folder(folder: Path, *, target: Path) -> None:
    """Rename `folder` to `target` on the same file system; an existing `target` is removed.

    If two processes do this at the same time, the folder of the later one remains.
    """
    _sync(folder)
    retired = []
    while True:
        try:
            folder.replace(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        retired.append(temporary_sibling(target))
        with suppress(FileNotFoundError):  # another process was faster
            target.replace(retired[-1])
    for old in retired:
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files and folders of `path` that killed processes left behind.

    The name of `path` may contain `*`.
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
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def link_or_copy(source: Path, *, target: Path) -> None:
    """Hard-link `source` as `target`, or copy it if the file system cannot link."""
    try:
        # Linux would link the link itself.
        os.link(source.resolve() if source.is_symlink() else source, target)
    except OSError:
        shutil.copyfile(source, target)


def resolve_inside(resolved_root: Path, *, relative: str) -> Path | None:
    """Return the file that `relative` names inside a root, or None if it would lie outside.

    Absolute paths, `..`, symbolic links that leave the root, loops of links and names that no file
    system accepts all count as outside. The root itself is already resolved.
    """
    if not relative or "\0" in relative or Path(relative).is_absolute():
        return None
    try:
        resolved = (resolved_root / relative).resolve()
    except (OSError, RuntimeError, UnicodeEncodeError):
        return None
    return resolved if resolved.is_relative_to(resolved_root) else None
