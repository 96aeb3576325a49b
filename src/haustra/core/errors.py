"""The one exception for what a user can mend; `cli` prints it as one line and exits with code 2."""


class HaustraError(Exception):
    """A user's mistake, told in one line: the bad value, what was expected, what to do next.

    Raised by library functions and caught only in `haustra.cli`. Anything else that escapes is a
    bug and shows its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class MissingExtraError(HaustraError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; "
            f"run: pip install 'haustra[{extra}]'"
        )
