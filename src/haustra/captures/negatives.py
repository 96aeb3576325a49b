"""Choosing which frames without a box stay, by each frame's name alone."""

from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, option

NUM_PLACES = 2**52
"""Number of values in 0..1 that 13 hexadecimal digits distinguish; a float holds each exactly."""


def check_empty_ratio(ratio: float) -> None:
    """Check the setting `empty_ratio`.

    Raises:
        HaustraError: It is not a number from 0 to 1.
    """
    if not 0 <= ratio <= 1:
        raise HaustraError(f"{option('empty_ratio', ratio)}: expected a number from 0 to 1")


def keeps_negative(sample_id: str, *, ratio: float) -> bool:
    """Return whether a frame without a box stays: its name's SHA-256, in 0..1, is below `ratio`.

    The share is met on average, a larger one only adds frames, and no other frame matters.
    """
    return int(digest_bytes(sample_id.encode())[:13], 16) < ratio * NUM_PLACES
