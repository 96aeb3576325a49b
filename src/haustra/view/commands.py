"""Commands that a page may send to the feed, and their checks."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_BYTES = 4096
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Signed = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Play(_Command):
    do: Literal["play", "pause"]


class _Step(_Command):
    do: Literal["step"]
    by: Annotated[int, Field(ge=-1000, le=1000)]


class _Seek(_Command):
    do: Literal["seek"]
    frame: Annotated[int, Field(ge=0, le=2**31)]


class _Find(_Command):
    do: Literal["find"]
    verdict: Literal["miss", "false"]
    backward: bool = False


class _Set(_Command):
    do: Literal["set"]
    objectness: Unit | None = None
    iou: Unit | None = None
    hold_off_frames: Annotated[int, Field(ge=0, le=1000)] | None = None
    hysteresis: Unit | None = None
    speed: Annotated[float, Field(ge=0.05, le=16, allow_inf_nan=False)] | None = None


class _Drive(_Command):
    do: Literal["drive"]
    ahead: Signed = 0.0
    sideways: Signed = 0.0
    turn_right: Signed = 0.0
    turn_down: Signed = 0.0


class _Switch(_Command):
    do: Literal["record", "autopilot"]
    on: bool


_COMMANDS: TypeAdapter[Any] = TypeAdapter(
    Annotated[_Play | _Step | _Seek | _Find | _Set | _Drive | _Switch, Field(discriminator="do")]
)


def parse_command(text: str | bytes) -> dict[str, Any] | None:
    """Return a page's message as a command of the feed; None if it is not a valid one."""
    if len(text) > MAX_BYTES:
        return None
    try:
        command = _COMMANDS.validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        return None
    # Keys that were not sent stay out: `hysteresis: null` removes it, no such key keeps it.
    value: dict[str, Any] = command.model_dump(exclude_unset=True)
    nulls = [key for key, item in value.items() if item is None and key != "hysteresis"]
    return None if nulls else value
