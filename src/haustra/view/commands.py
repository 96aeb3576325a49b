"""Commands that a page may send to the feed, and their checks."""

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

MAX_BYTES = 4096
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Axis = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Speed = Annotated[float, Field(ge=0.05, le=16, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=-1000, le=1000)]
HoldOff = Annotated[int, Field(ge=0, le=1000)]
Number = Annotated[int, Field(ge=0, le=2**31)]


def _command(name: str, **values: Any) -> type[BaseModel]:
    """Return the model of a command; each value is its type and its default (`...` if required)."""
    values["do"] = (Literal[name], ...)
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **values)


COMMANDS = (
    _command("play"),
    _command("pause"),
    _command("step", by=(Steps, ...)),
    _command("seek", frame=(Number, ...)),
    _command("find", verdict=(Literal["miss", "false"], ...), backward=(bool, False)),
    _command(
        "set",
        objectness=(Unit | None, None),
        iou=(Unit | None, None),
        hold_off_frames=(HoldOff | None, None),
        hysteresis=(Unit | None, None),
        speed=(Speed | None, None),
    ),
    _command(
        "drive", **dict.fromkeys(("ahead", "sideways", "turn_right", "turn_down"), (Axis, 0.0))
    ),
    _command("record", on=(bool, ...)),
    _command("autopilot", on=(bool, ...)),
)
ANY_COMMAND: Any = Annotated[Union[COMMANDS], Field(discriminator="do")]  # noqa: UP007 - a tuple
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ANY_COMMAND)


def parse_command(text: str | bytes) -> dict[str, Any] | None:
    """Return a page's message as a command of the feed; None if it is not a valid one."""
    if len(text) > MAX_BYTES:
        return None
    try:
        command = _ADAPTER.validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        return None
    # Keys that were not sent stay out: `hysteresis: null` removes it, no such key keeps it.
    value: dict[str, Any] = command.model_dump(exclude_unset=True)
    nulls = [key for key, item in value.items() if item is None and key != "hysteresis"]
    return None if nulls else value
