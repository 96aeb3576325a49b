from importlib import import_module
from pathlib import Path

import pytest

from haustra.core.errors import HaustraError, MissingExtraError, needs_extra, option


def test_a_message_is_one_line() -> None:
    assert str(HaustraError("bad value\n  in line 3")) == "bad value in line 3"


def test_a_missing_package_comes_with_the_command_that_installs_it() -> None:
    error = MissingExtraError("torch", extra="train", needed_for="haustra train")
    assert isinstance(error, HaustraError)
    assert str(error) == (
        "haustra train needs the package 'torch', which is not installed; "
        "run: pip install 'haustra[train]'"
    )


@pytest.mark.parametrize(
    ("marked", "in_python", "at_the_command_line"),
    [
        (option("batch_size", 0), "batch_size=0", "--batch-size 0"),
        (option("--batch-size", 0), "batch_size=0", "--batch-size 0"),
        (option("model", "huge"), "model='huge'", "--model huge"),
        (option("out", Path("a/b.bin")), "out='a/b.bin'", "--out a/b.bin"),
        (option("overwrite"), "overwrite", "--overwrite"),
        (option("overwrite", True), "overwrite=True", "--overwrite"),
        (option("augment", False), "augment=False", "--no-augment"),
        (option("max_boxes", None), "max_boxes=None", "--max-boxes"),
    ],
)
def test_a_setting_is_a_parameter_in_python_and_a_flag_at_the_command_line(
    marked: str, in_python: str, at_the_command_line: str
) -> None:
    error = HaustraError(f"{marked}: expected something else")
    assert str(error) == f"{in_python}: expected something else"
    assert error.for_command_line() == f"{at_the_command_line}: expected something else"


def test_an_error_inside_another_keeps_its_settings_marked() -> None:
    inner = HaustraError(f"{option('epochs', 0)}: too few")
    outer = HaustraError(f"settings.json: {inner.message}")
    assert str(outer) == "settings.json: epochs=0: too few"
    assert outer.for_command_line() == "settings.json: --epochs 0: too few"


def test_a_missing_import_names_the_extra_that_brings_it() -> None:
    with (
        pytest.raises(
            MissingExtraError, match=r"haustra.train needs the package 'no_such_package'"
        ),
        needs_extra("train", needed_for="haustra.train"),
    ):
        import_module("no_such_package.part")


def test_a_missing_module_of_our_own_is_a_bug_and_not_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("train", needed_for="haustra.train"):
        import_module("haustra.no_such_module")
