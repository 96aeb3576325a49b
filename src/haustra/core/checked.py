"""Frozen settings dataclasses that check their own fields, and that a JSON object can change.

A field declares its range in its annotation, such as `mosaic: Share = 0.3`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from haustra.core.errors import HaustraError


@dataclass(frozen=True)
class Range:
    """The values that a number may have, both ends included."""

    low: float
    high: float = math.inf
    is_low_excluded: bool = False
    """Only values above `low` are allowed."""

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.is_low_excluded else value >= self.low) and (
            value <= self.high and math.isfinite(value)
        )

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a number"
        if self.high == math.inf:
            return f"a number {'above' if self.is_low_excluded else 'of at least'} {self.low:g}"
        if self.is_low_excluded:
            return f"a number above {self.low:g} and up to {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}"


Finite = Annotated[float, Range(-math.inf)]
Share = Annotated[float, Range(0, 1)]
ShareAboveZero = Annotated[float, Range(0, 1, is_low_excluded=True)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, is_low_excluded=True)]
Count = Annotated[int, Range(0)]
CountFromOne = Annotated[int, Range(1)]


class CheckedSettings:
    """Base of a frozen settings dataclass that checks each field against its annotation.

    Whole numbers and lists become `float` and `tuple` where a field has these types.

    Raises:
        HaustraError: A value has the wrong type or is out of its range.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, _convert(value, hint))
            except ValueError as error:
                raise HaustraError(f"{name}={value!r}: expected {error}") from None


Settings = TypeVar("Settings", bound=CheckedSettings)


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
    values: dict[str, Any] = {}
    for name, value in changes.items():
        current = getattr(base, str(name), None)
        if name not in {field.name for field in fields(base)}:  # type: ignore[arg-type]
            names = ", ".join(field.name for field in fields(base))  # type: ignore[arg-type]
            raise HaustraError(f"{where}{name!r} is not a setting; expected one of {names}")
        if isinstance(current, CheckedSettings):
            value = change_settings(current, value, where=f"{where}{name}: ")
        values[name] = value
    try:
        return replace(base, **values)  # type: ignore[type-var]
    except HaustraError as error:
        raise HaustraError(f"{where}{error.message}") from None


def settings_to_json(settings: object) -> Any:
    """Return settings as JSON values: objects for dataclasses, arrays for tuples."""
    if isinstance(settings, CheckedSettings):
        names = [field.name for field in fields(settings)]  # type: ignore[arg-type]
        return {name: settings_to_json(getattr(settings, name)) for name in names}
    return list(settings) if isinstance(settings, tuple) else settings


def _convert(value: object, hint: Any) -> object:
    """Return a value in the type of a hint.

    Raises:
        ValueError: The value is not allowed; the text says which ones are.
    """
    if get_origin(hint) is tuple:
        hints = get_args(hint)
        if not isinstance(value, tuple | list) or len(value) != len(hints):
            raise ValueError(f"{len(hints)} numbers")
        return tuple(_convert(*pair) for pair in zip(value, hints, strict=True))
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"one of {', '.join(map(str, get_args(hint)))}")
        return value
    if get_origin(hint) is not Annotated:
        if not isinstance(value, hint):
            raise ValueError(f"a {hint.__name__}")
        return value
    kind, limits = get_args(hint)
    is_number = isinstance(value, int | kind) and not isinstance(value, bool)
    if not is_number or value not in limits:
        raise ValueError(str(limits).replace("number", "whole number") if kind is int else limits)
    return kind(value)
