"""Choosing which frames without a box stay, by each frame's name alone."""

from haustra.core.digests import digest_bytes

NUM_PLACES = 2**52
"""Number of values in 0..1 that 13 hexadecimal digits distinguish; a float holds each exactly."""


def keeps_negative(sample_id: str, *, ratio: float) -> bool:
    """Return whether a frame without a box stays: its name's SHA-256, in 0..1, is below `ratio`.

    The share is met on average, a larger one only adds frames, and no other frame matters.
    """
    return int(digest_bytes(sample_id.encode())[:13], 16) < ratio * NUM_PLACES
