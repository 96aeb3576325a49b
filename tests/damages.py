"""Seeded damage to a file, as disks, power cuts and interrupted copies leave it."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError

BLOCK_BYTES = 4096


def cut_short(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    length = rng.choice([0, rng.randrange(len(data)), len(data) - 1])
    path.write_bytes(data[:length])
    return f"cut to {length} of {len(data)} bytes"


def flip_bit(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    position, bit = rng.randrange(len(data)), rng.randrange(8)
    data[position] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {position} flipped"


def zero_block(path: Path, rng: random.Random) -> str:
    """Overwrite a block with zeros, as a write that was lost in a power cut does."""
    return _overwrite_block(path, rng, make=bytes, name="zeroed")


def fill_with_noise(path: Path, rng: random.Random) -> str:
    return _overwrite_block(path, rng, make=rng.randbytes, name="filled with noise")


def change_digit(path: Path, rng: random.Random) -> str:
    """Change one digit of the JSON in a file: a plausible value that is wrong."""
    data = bytearray(path.read_bytes())
    places = [match.start() for match in re.finditer(rb"(?<=[\d.])\d(?=[\d,.\]}])", data)]
    place = rng.choice(places)
    before, after = chr(data[place]), rng.choice([d for d in "123456789" if d != chr(data[place])])
    data[place] = ord(after)
    path.write_bytes(data)
    return f"digit {before} at byte {place} became {after}"


def _overwrite_block(
    path: Path, rng: random.Random, *, make: Callable[[int], bytes], name: str
) -> str:
    data = bytearray(path.read_bytes())
    start = rng.randrange(-(-len(data) // BLOCK_BYTES)) * BLOCK_BYTES
    stop = min(start + BLOCK_BYTES, len(data))
    data[start:stop] = make(stop - start)
    path.write_bytes(data)
    return f"bytes {start} to {stop} {name}"


Damage = Callable[[Path, random.Random], str]
DAMAGES: tuple[Damage, ...] = (cut_short, flip_bit, zero_block, fill_with_noise, change_digit)


def reading_of_damaged(
    original: Path, *, copy: Path, seed: int, read: Callable[[Path], Any]
) -> tuple[str, Any]:
    """Damage a copy of a file by a seed, and read it.

    Returns:
        The damage, and what `read` returns; None where it refuses the file in one line that names
        it. Any other exception is a failure of the reader.
    """
    rng = random.Random(seed)
    copy.write_bytes(original.read_bytes())
    text = f"seed {seed}: {rng.choice(DAMAGES)(copy, rng)}"
    try:
        return text, read(copy)
    except HaustraError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{text}: {type(error).__name__}: {error}") from error
    assert str(copy) in message, f"{text}: {message}"
    assert "\n" not in message, f"{text}: {message}"
    return text, None
