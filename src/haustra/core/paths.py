"""Paths: the type that public functions take, and names that follow from others."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

StrPath = str | os.PathLike[str]


def to_path(path: StrPath) -> Path:
    """Return a path that a user gave, with `~` at its beginning as the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - leaves the name of an unknown user


def run_folder_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's training: its full name and `.run`.

    A name such as `exp_lr0.001` has no suffix that could be left out.
    """
    return Path(f"{checkpoint}.run")


@contextmanager
def plain_path(path: Path) -> Iterator[str]:
    """Yield a path of an existing file that libraries in C and Rust take as it is.

    They refuse names that are not UTF-8, or end the process. OpenCV takes `a:b.mp4` for a protocol
    and `%d` for a series of files.
    """
    name = str(path.absolute())
    if "%" not in name and name.isprintable():  # neither a pattern nor a byte of another encoding
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"file{path.suffix if path.suffix.isascii() else ''}"
        link.symlink_to(name)
        yield str(link)
