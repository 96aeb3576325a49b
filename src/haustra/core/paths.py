"""Paths as callers give them: text or path-like objects, turned into `Path` in one place."""

import os
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

StrPath = str | os.PathLike[str]
"""Type of the paths that public functions take."""


def convert_paths(settings: Any) -> None:
    """Turn the path fields of a frozen settings dataclass into `Path` objects.

    Call it first in `__post_init__`, so that `TrainConfig(checkpoint_out="x.bin")` works. A field
    annotated `Path`, `Path | None` or a tuple of `Path` is converted; one that also takes text,
    such as a URL, is left alone.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        hint = hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if str in kinds:
            continue
        value = getattr(settings, field.name)
        if Path in kinds and isinstance(value, str | os.PathLike):
            object.__setattr__(settings, field.name, Path(value))
        elif any(Path in get_args(kind) for kind in kinds) and isinstance(value, tuple | list):
            object.__setattr__(settings, field.name, tuple(Path(item) for item in value))
