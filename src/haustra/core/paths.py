"""Paths: the type that public functions take, and names that follow from others."""

import os
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
