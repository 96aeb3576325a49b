"""Frozen settings dataclasses that check their own fields, and that a JSON object can change.

A field declares its range in its annotation, such as `mosaic: Share = 0.3`.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from haustra.core.errors import HaustraError, option
from haustra.core.paths import to_path

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NonNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
ShareAboveZero = Annotated[Finite, Field(gt=0, le=1)]
ShareBetween = Annotated[Finite, Field(gt=0, lt=1)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(ge=0)]
CountFromOne = Annotated[Whole, Field(ge=1)]
SidePx = Annotated[Whole, Field(ge=64, le=4096)]


@dataclass(frozen=True)
class Output:
    """Marks a path that a stage writes; `haustra.core.outputs` checks it before any work."""

    is_folder: bool
    is_replaced: bool = False
    """True for a folder that is written as a whole, and must not overlap the input."""


OUTPUT_FILE, OUTPUT_FOLDER = Output(is_folder=False), Output(is_folder=True)
OutputFile = Annotated[Path, OUTPUT_FILE]
OutputFolder = Annotated[Path, OUTPUT_FOLDER]
ReplacedFolder = Annotated[Path, Output(is_folder=True, is_replaced=True)]

_adapter = cache(TypeAdapter)
_LIMITS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "up to",
    "exclusiveMaximum": "below",
}


def _describe(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema of pydantic allows, in words."""
    match schema:
        case {"anyOf": kinds}:
            return " or ".join(_describe(kind) for kind in kinds if kind["type"] != "null")
        case {"enum": values}:
            return f"one of {', '.join(map(str, values))}"
        case {"type": "array", "prefixItems": [first, *_] as items}:
            return f"{len(items)} values, each {_describe(first)}"
        case {"type": "array", "items": item}:
            return f"a list of values, each {_describe(item)}"
        case {"type": "integer" | "number" as kind}:
            is_bounded = "maximum" in schema or "exclusiveMaximum" in schema
            noun = "whole number" if kind == "integer" else "number"
            adjective = "" if kind == "integer" or is_bounded else "finite "
            if "minimum" in schema and "maximum" in schema:
                return f"a {noun} from {schema['minimum']} to {schema['maximum']}"
            limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
            return " ".join([f"a {adjective}{noun}", " and ".join(limits)]).rstrip()
        case {"format": "path"}:
            return "a path"
        case {"type": "boolean"}:
            return "True or False"
    return "text"


def check_value(name: str, value: Any, *, kind: Any) -> Any:
    """Return the value of a setting as its type: a `float` for 1, a `Path` for text.

    `~` at the beginning of a path is the home folder.

    Raises:
        HaustraError: The value has the wrong type or is out of its range.
    """
    adapter, given = _adapter(kind), value
    if isinstance(value, os.PathLike):
        given = Path(value)
    elif type(value).__module__ == "numpy" and not getattr(value, "ndim", 1):
        given = value.item()
    try:
        checked = adapter.validate_python(given)
    except ValidationError:
        expected = _describe(adapter.json_schema())
        raise HaustraError(f"{option(name, value)}: expected {expected}") from None
    if kind == str | Path and "://" not in str(checked):
        return to_path(checked)
    if isinstance(checked, tuple):
        return tuple(to_path(item) if isinstance(item, Path) else item for item in checked)
    return to_path(checked) if isinstance(checked, Path) else checked


class CheckedSettings:
    """Base of a frozen settings dataclass that checks each field against its annotation.

    Whole numbers, lists and text become `float`, `tuple` and `Path` where a field has these types.

    Raises:
        HaustraError: A value has the wrong type or is out of its range.
    """

    def __post_init__(self) -> None:
        for name, kind in _field_types(type(self)).items():  # type: ignore[arg-type]
            object.__setattr__(self, name, check_value(name, getattr(self, name), kind=kind))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values: objects for settings, text for paths."""
        return to_jsonable_python(asdict(self))  # type: ignore[call-overload, no-any-return]


Settings = TypeVar("Settings", bound=CheckedSettings)
Marker = TypeVar("Marker")


@cache
def _field_types(settings: type) -> dict[str, Any]:
    """Return the type of each field that is not itself a `CheckedSettings`."""
    return {
        name: hint
        for name, hint in get_type_hints(settings, include_extras=True).items()
        if not (isinstance(hint, type) and issubclass(hint, CheckedSettings))
    }


def fields_with(settings: type, *, marker: type[Marker]) -> dict[str, Marker]:
    """Return the fields whose annotation, or one part of its union, has a marker, with it."""
    return {
        name: item
        for name, hint in get_type_hints(settings, include_extras=True).items()
        for part in (hint, *get_args(hint))
        for item in getattr(part, "__metadata__", ())
        if isinstance(item, marker)
    }


def change_settings(base: Settings, changes: object, *, where: str = "") -> Settings:
    """Return settings with some fields changed to JSON values.

    Args:
        base: The settings that hold for every field that `changes` leaves out.
        changes: A JSON object; nested settings are objects in it, tuples are arrays.
        where: Prefix of the names in error messages, such as `recipe.json: `.

    Raises:
        HaustraError: `changes` is not an object, names an unknown field, or has a bad value.
    """
    if not isinstance(changes, Mapping):
        raise HaustraError(f"{where}expected a JSON object of settings, not {changes!r}")
    names = [field.name for field in fields(base)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in names:
            raise HaustraError(
                f"{where}{name!r} is not a setting; expected one of {', '.join(names)}"
            )
        current = getattr(base, name)
        is_nested = isinstance(current, CheckedSettings)
        values[name] = (
            change_settings(current, value, where=f"{where}{name}: ") if is_nested else value
        )
    try:
        return replace(base, **values)  # type: ignore[type-var]
    except HaustraError as error:  # its text names fields, of which there are no flags
        raise HaustraError(f"{where}{error}") from None
