from haustra.core.errors import HaustraError, MissingExtraError


def test_a_message_is_one_line() -> None:
    assert str(HaustraError("bad value\n  in line 3")) == "bad value in line 3"


def test_a_missing_package_comes_with_the_command_that_installs_it() -> None:
    error = MissingExtraError("torch", extra="train", needed_for="haustra train")
    assert isinstance(error, HaustraError)
    assert str(error) == (
        "haustra train needs the package 'torch', which is not installed; "
        "run: pip install 'haustra[train]'"
    )
