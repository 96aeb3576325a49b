import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from haustra.core.checked import (
    CheckedSettings,
    Count,
    CountFromOne,
    Finite,
    NonNegative,
    Share,
    ShareAboveZero,
    ShareBetween,
    SidePx,
)
from haustra.core.errors import HaustraError


class _PathLike(os.PathLike[str]):
    def __fspath__(self) -> str:
        return "like"


@dataclass(frozen=True, kw_only=True)
class _Settings(CheckedSettings):
    required: Path = Path("r")
    optional: Path | None = None
    pair: tuple[Path, Path] | None = None
    place: str | Path = "s3://bucket/folder"
    name: str = "name"
    on: bool = False
    kind: Literal["a", "b"] | None = None
    kinds: tuple[Literal["a", "b"], ...] = ()
    count: Count | None = None
    from_one: CountFromOne = 1
    side: SidePx = 64
    any_number: Finite = 0.0
    weight: NonNegative = 0.0
    share: Share | None = None
    above: ShareAboveZero = 1.0
    between: ShareBetween = 0.5
    numbers: tuple[Share, Share] = (0.0, 1.0)


def test_text_becomes_a_path_where_the_setting_is_one() -> None:
    settings = _Settings(required="a.bin", optional=_PathLike(), pair=("c", "d"))  # type: ignore[arg-type]
    assert settings.required == Path("a.bin")
    assert settings.optional == Path("like")
    assert settings.pair == (Path("c"), Path("d"))


def test_numbers_of_numpy_become_those_of_python() -> None:
    settings = _Settings(from_one=np.int64(3), weight=np.float32(0.5))  # type: ignore[arg-type]
    assert (settings.from_one, settings.weight) == (3, 0.5)
    assert (type(settings.from_one), type(settings.weight)) == (int, float)


def test_a_url_stays_text() -> None:
    assert _Settings().place == "s3://bucket/folder"


def test_settings_become_json() -> None:
    value = _Settings(pair=(Path("c"), Path("d")), numbers=[0, 1]).to_json()  # type: ignore[arg-type]
    assert value["pair"] == ["c", "d"]
    assert value["numbers"] == [0.0, 1.0]
    assert value["required"] == "r"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("required", 3, "a path"),
        ("place", 3, "text or a path"),
        ("name", 3, "text"),
        ("on", "maybe", "True or False"),
        ("kind", "c", "one of a, b"),
        ("kinds", ("c",), "a list of values, each one of a, b"),
        ("count", -1, "a whole number of at least 0"),
        ("count", True, "a whole number of at least 0"),
        ("from_one", 1.5, "a whole number of at least 1"),
        ("from_one", None, "a whole number of at least 1"),
        ("side", 63, "a whole number from 64 to 4096"),
        ("any_number", float("inf"), "a finite number"),
        ("weight", float("nan"), "a finite number of at least 0"),
        ("share", 1.5, "a number from 0 to 1"),
        ("share", "0.5", "a number from 0 to 1"),
        ("above", 0.0, "a number above 0 and up to 1"),
        ("between", 1, "a number above 0 and below 1"),
        ("numbers", (0.5,), "2 values, each a number from 0 to 1"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(name: str, value: Any, expected: str) -> None:
    with pytest.raises(HaustraError) as caught:
        _Settings(**{name: value})
    assert str(caught.value) == f"{name}={value!r}: expected {expected}"


def test_a_bad_value_is_named_as_a_flag_at_the_command_line() -> None:
    with pytest.raises(HaustraError) as caught:
        _Settings(from_one=0)
    assert caught.value.for_command_line() == (
        "--from-one 0: expected a whole number of at least 1"
    )
