"""Length of a video file as its container states it: MP4, MOV, AVI, MKV and WebM."""

import struct
from pathlib import Path
from typing import BinaryIO

MP4_BOXES = tuple(b"ftyp styp moov moof mdat mfra sidx free skip wide uuid meta prft emsg".split())


def count_missing_bytes(path: Path) -> int:
    """Return how many bytes after the end of the file its outermost boxes claim; 0 if unknown."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            length = _box_length(file)
            if not length:
                return 0
            position += length
    return position - size


def _box_length(file: BinaryIO) -> int:
    """Return the length of the box that begins here, with its header; 0 if unknown."""
    head = file.read(16).ljust(16, b"\0")
    if head.startswith(b"RIFF"):
        length = int(struct.unpack("<I", head[4:8])[0])
        return 0 if length in (0, 0xFFFFFFFF) else 8 + length + length % 2
    if head.startswith((b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")):  # EBML header, segment
        num_bytes = 9 - head[4].bit_length()
        unknown = (1 << 7 * num_bytes) - 1
        length = int.from_bytes(head[4 : 4 + num_bytes], "big") & unknown
        return 0 if length == unknown else 4 + num_bytes + length
    short, kind, long = struct.unpack(">I4sQ", head)
    return int(long if short == 1 else short) if kind in MP4_BOXES else 0
