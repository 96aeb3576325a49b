"""Writing a shard: a safetensors file, digested as it is written.

The bytes are those that the safetensors package writes. It is not used for it because it copies
every tensor first, and the file would have to be read again for its digest.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haustra.core.files import writing_file

HEADER_ALIGNMENT = 8
CHUNK_BYTES = 2**18
"""Bytes that are digested and then written while they are still in the processor's cache."""


def shard_header(tensors: dict[str, NDArray[np.uint8] | NDArray[np.float32]]) -> bytes:
    """Return a safetensors file's bytes before its tensors: the header's size and the header."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": {"uint8": "U8", "float32": "F32"}[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_shard_file(
    path: Path,
    *,
    images: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    mask: NDArray[np.uint8],
) -> tuple[int, str]:
    """Write one shard, whole or not at all; return its size in bytes and its SHA-256.

    Args:
        path: the file.
        images: uint8 [N,H,W,3] in one piece.
        boxes: float32 [N,M,4].
        mask: uint8 [N,M].
    """
    # Wide numbers first, then by name: the order in which safetensors lays tensors out.
    tensors = {"boxes": boxes.astype("<f4", copy=False), "images": images, "mask": mask}
    digest = hashlib.sha256()
    with writing_file(path) as temporary, temporary.open("wb") as file:
        parts = [memoryview(shard_header(tensors)), *(tensor.data for tensor in tensors.values())]
        for part in parts:
            view = part.cast("B")
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                digest.update(chunk)
                file.write(chunk)
    return path.stat().st_size, digest.hexdigest()
