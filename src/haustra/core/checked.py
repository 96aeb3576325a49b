"""Frozen settings dataclasses that check their own fields, and that a JSON object can change.

A field declares its range in its annotation, such as `mosaic: Share = 0.3`.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from haustra.core.errors import HaustraError

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NonNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
ShareAboveZero = Annotated[Finite, Field(gt=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
CountFromOne = Annotated[int, Field(strict=True, ge=1)]


class CheckedSettings:
    """Base of a frozen settings dataclass that checks each field against its annotation.

    Whole numbers and lists become `float` and `tuple` where a field has these types.

    Raises:
        HaustraError: A value has the wrong type or is out of its range.
    """

    def __post_init__(self) -> None:
        for name, adapter in _build_adapters(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, adapter.validate_python(value))
            except ValidationError as error:
                first = error.errors()[0]
                text = first["msg"].replace("Input should", "it should")
                place = f" at place {int(first['loc'][0]) + 1}" if first["loc"] else ""
                raise HaustraError(f"{name}={value!r}: {text}{place}") from None


Settings = TypeVar("Settings", bound=CheckedSettings)


@cache
def _build_adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    """Return what checks each field that is not itself a `CheckedSettings`."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: TypeAdapter(hint)
        for name, hint in hints.items()
        if not (isinstance(hint, type) and issubclass(hint, CheckedSettings))
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
    except HaustraError as error:
        raise HaustraError(f"{where}{error.message}") from None


def settings_to_json(settings: CheckedSettings) -> dict[str, Any]:
    """Return settings as JSON values: objects for dataclasses, arrays for tuples."""

    def as_json(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in items}

    return asdict(settings, dict_factory=as_json)  # type: ignore[call-overload, no-any-return]
