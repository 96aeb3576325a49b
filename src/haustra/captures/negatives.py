"""Leaving out negatives: which frames without a box stay, by each frame's name alone."""

from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError

NUM_PLACES = 2**52
"""Places in 0..1 that a name's first 13 hexadecimal digits tell apart; a float holds each."""


def check_empty_ratio(ratio: float) -> None:
    """Check the setting `--empty-ratio`.

    Raises:
        HaustraError: it is no number from 0 to 1.
    """
    if not 0 <= ratio <= 1:
        raise HaustraError(f"--empty-ratio {ratio}: expected a number from 0 to 1")


def keeps_negative(sample_id: str, *, ratio: float) -> bool:
    """Tell whether a frame without a box stays: its name's SHA-256, in 0..1, is below `ratio`.

    So the share is met on average, a larger one only adds frames, and no other frame matters.
    """
    return int(digest_bytes(sample_id.encode())[:13], 16) < ratio * NUM_PLACES
