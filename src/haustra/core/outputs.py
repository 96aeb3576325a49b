"""The check of every path that a stage will write, before it does any work.

Settings declare such paths as `OutputFile` and `OutputFolder`; their other paths are inputs.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from haustra.core.checked import Output, fields_with
from haustra.core.errors import HaustraError, option
from haustra.core.files import temporary_sibling

_PROBE = bytes(4096)  # written and removed, so that a full disk is found as well


def check_outputs(config: Any, **resolved: Path) -> None:
    """Check that everything that settings name as an output can be written, and leave no trace.

    Args:
        **resolved: Paths of the outputs that the settings leave open, by the field's name, and of
            inputs that are no settings.

    Raises:
        HaustraError: An output cannot be written, is an input, or is written by another output.
    """
    kinds = fields_with(type(config), marker=Output)
    values = vars(config) | resolved
    outputs = {name: values[name] for name in kinds if values[name] is not None}
    for name, path in outputs.items():
        check_output(name, path, kind=kinds[name])
    inputs = list(_paths({name: value for name, value in values.items() if name not in kinds}))
    for name, path in outputs.items():
        for source, read in inputs:
            a, b = path.resolve(), read.resolve()
            if kinds[name].is_replaced and (a.is_relative_to(b) or b.is_relative_to(a)):
                raise HaustraError(
                    f"{option(name, path)} overlaps the {source} {read}; expected a folder of its "
                    "own, since the input never changes"
                )
            if not kinds[name].is_folder and (
                _is_same(path, read) or _is_same(path, read / "manifest.json")
            ):
                raise HaustraError(
                    f"{option(name, path)} is also {option(source)}, which is only read; expected "
                    "another file"
                )
        for other, written in outputs.items():
            is_file = other != name and not kinds[name].is_folder
            if is_file and _absolute(written).is_relative_to(_absolute(path)):
                raise HaustraError(
                    f"{option(name, path)} and {option(other, written)}: expected two places, since"
                    " one would replace the other"
                )


def check_output(name: str, path: Path, *, kind: Output) -> None:
    """Check that a path can be written, and leave no trace.

    Raises:
        HaustraError: It cannot; the message calls it the setting `name`.
    """
    try:
        problem = _problem_of(path, kind=kind)
    except (OSError, ValueError) as error:  # ValueError: a name that no file has
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"cannot be written: {reason}; choose another place or make room there"
    if problem:
        raise HaustraError(f"{option(name, path)} {problem}")


def _problem_of(path: Path, *, kind: Output) -> str | None:
    path = _absolute(path)
    if os.path.lexists(path):
        if kind.is_folder and not path.is_dir():
            return "is a file; expected a folder"
        if not kind.is_folder and path.is_dir():
            return "is a folder; expected a file name"
        if not kind.is_folder and path.exists() and not path.is_file():
            return "is a device; expected a file name"
        if path.exists() and not os.access(path, os.W_OK):
            return "is write-protected; choose another place or change its permissions"
    folder = path if kind.is_folder else path.parent
    place = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not place.is_dir():
        return f"cannot be written: {place} is not a folder; choose another place"
    before = place.stat()
    with tempfile.TemporaryDirectory(prefix=".haustra.", dir=place) as temporary:
        inside = Path(temporary) / folder.relative_to(place)
        inside.mkdir(parents=True, exist_ok=True)
        temporary_sibling(inside / path.name).write_bytes(_PROBE)
    with suppress(OSError):  # only an owner may set the times
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    return None


def _paths(values: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Path):
                yield name, item


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay, `..` goes


def _is_same(a: Path, b: Path) -> bool:
    """Return whether two paths are one existing file."""
    return os.path.exists(a) and os.path.exists(b) and a.samefile(b)  # noqa: PTH110 - never raises
