"""Range checks of settings, so that every stage says the same about a bad number."""

from haustra.core.errors import HaustraError, option


def check_whole_number(name: str, value: int, *, low: int, high: int | None = None) -> None:
    """Check a setting that counts something.

    Args:
        name: Its name, such as `epochs`.
        value: What was given.
        low: Smallest allowed value.
        high: Largest allowed value, or None for no limit.

    Raises:
        HaustraError: The value is not a whole number or is out of range.
    """
    if type(value) is int and value >= low and (high is None or value <= high):
        return
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise HaustraError(f"{option(name, value)}: expected a whole number {limits}")
