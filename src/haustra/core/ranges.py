"""Range checks of settings, so that every stage says the same about a bad number."""

from haustra.core.errors import HaustraError


def check_whole_number(flag: str, value: int, *, low: int, high: int | None = None) -> None:
    """Check a setting that counts something.

    Args:
        flag: how the user spells it, such as `--epochs`.
        value: what was given.
        low: smallest allowed value.
        high: largest allowed value, or None for no limit.

    Raises:
        HaustraError: the value is no whole number or out of range.
    """
    if type(value) is int and value >= low and (high is None or value <= high):
        return
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise HaustraError(f"{flag} {value}: expected a whole number {limits}")
