"""The one exception for mistakes that a user can fix, and how its messages name settings."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

_NO_VALUE = object()
_OPEN, _BETWEEN, _CLOSE = "\ue000", "\ue001", "\ue002"
_OPTION = re.compile(f"{_OPEN}(.*?){_BETWEEN}(.*?){_CLOSE}")


def option(name: str, value: object = _NO_VALUE) -> str:
    """Return a setting for use in the message of a `HaustraError`.

    The message shows it as `epochs=0` in Python and as `--epochs 0` at the command line.

    Args:
        name: Parameter or flag: `batch_size` and `--batch-size` are the same setting.
        value: Its value. Without one only the name is shown. `True` and `False` are shown as
            `--flag` and `--no-flag` at the command line, `None` as the name alone.
    """
    parameter = name.removeprefix("--").replace("-", "_")
    flag = f"--{parameter.replace('_', '-').rstrip('-')}"  # `from_` is --from
    if value is _NO_VALUE:
        in_python, in_shell = parameter, flag
    elif isinstance(value, bool):
        in_python = f"{parameter}={value}"
        in_shell = flag if value else f"--no-{flag.removeprefix('--')}"
    else:
        shown = str(value) if isinstance(value, PurePath) else value
        in_python = f"{parameter}={shown!r}"
        text = f"{value}"
        in_shell = flag if value is None else f"{flag} {shlex.quote(text) if ' ' in text else text}"
    return f"{_OPEN}{in_python}{_BETWEEN}{in_shell}{_CLOSE}"


class HaustraError(Exception):
    """A mistake that the user can fix: the bad value, what was expected, what to do next.

    `str()` gives one line that names settings as Python parameters; `for_command_line()` names them
    as flags. Library functions raise it, and only `haustra.cli` catches it. Any other exception is
    a bug and shows its traceback.

    Args:
        message: The text; settings in it are written by `option`. Line breaks become spaces.
    """

    def __init__(self, message: str) -> None:
        self.message = " ".join(line.strip() for line in message.splitlines())
        """The text with its settings still marked, for use inside another message."""
        super().__init__(_OPTION.sub(r"\1", self.message))

    def for_command_line(self) -> str:
        """Return the message with settings named as flags."""
        return _OPTION.sub(r"\2", self.message)


class MissingExtraError(HaustraError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; "
            f"run: pip install 'haustra[{extra}]'"
        )


def name_some(names: Sequence[str]) -> str:
    """Return the first ten of `names` in quotes, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more


def refuse(problems: Sequence[str]) -> None:
    """Raise an error that gives the number of mistakes and the first ten, if there are any."""
    if len(problems) == 1:
        raise HaustraError(problems[0])
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        listed = "; ".join(f"({i}) {text}" for i, text in enumerate(problems[:10], start=1))
        raise HaustraError(f"{len(problems)} mistakes: {listed}{more}")


@contextmanager
def needs_extra(extra: str, *, needed_for: str) -> Iterator[None]:
    """Name the extra to install where an import inside this context fails.

    Raises:
        MissingExtraError: A package other than haustra itself is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "haustra"):
            raise
        raise MissingExtraError(package, extra=extra, needed_for=needed_for) from None
