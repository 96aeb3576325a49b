"""The layout of a shard, which is a safetensors file, and writing one.

The bytes are those that the safetensors package writes. The package itself copies every tensor
before it writes, and the file would have to be read again for its digest.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haustra.core.files import writing_file
from haustra.warehouse.format import ShardEntry, WarehouseManifest

HEADER_ALIGNMENT = 8
CHUNK_BYTES = 2**18
"""Bytes that are digested and then written while they are still in the CPU's cache."""

DTYPES: dict[str, tuple[str, type[np.generic]]] = {
    "boxes": ("F32", np.float32),
    "images": ("U8", np.uint8),
    "mask": ("U8", np.uint8),
}
"""Type of each tensor, in safetensors and in NumPy, in the order of the file: wide numbers first,
then by name."""


class Place(NamedTuple):
    """The place of one tensor in a shard file."""

    start: int  # offset of its first byte in the file
    stop: int  # offset after its last byte
    dtype: type[np.generic]
    shape: tuple[int, ...]

    def view(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the tensor in the bytes of its file, without a copy."""
        return data[self.start : self.stop].view(self.dtype).reshape(self.shape)


Layout = tuple[Place, ...]  # the places of a shard's images, boxes and mask


def read_layout(
    data: NDArray[np.uint8], *, entry: ShardEntry, manifest: WarehouseManifest
) -> Layout | str:
    """Read a safetensors header: 8 bytes of its length, then JSON; the tensors follow.

    Returns what is wrong where the file is not the shard that the manifest describes.
    """
    (width, height), num_samples = manifest.target_size_wh, entry.num_samples
    shapes = {
        "images": [num_samples, height, width, 3],
        "boxes": [num_samples, manifest.max_boxes, 4],
        "mask": [num_samples, manifest.max_boxes],
    }
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    layout = []
    try:
        header: dict[str, Any] = json.loads(data[8:begin].tobytes())
        names = header.keys() - {"__metadata__"}
        if names != shapes.keys():
            return f"its tensors are {sorted(names)}, expected {sorted(shapes)}"
        for name, shape in shapes.items():
            code, dtype = DTYPES[name]
            found = (header[name]["dtype"], header[name]["shape"])
            if found != (code, shape):
                return (
                    f"tensor {name!r} is {found[0]} {found[1]}, the manifest gives {code} {shape}"
                )
            start, stop = (begin + offset for offset in header[name]["data_offsets"])
            layout.append(Place(start, stop, dtype, tuple(shape)))
            layout[-1].view(data)  # fails where the file is cut short
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "it is not a safetensors file"
    return tuple(layout)


def write_shard_file(
    path: Path, *, images: NDArray[np.uint8], boxes: NDArray[np.float32], mask: NDArray[np.uint8]
) -> tuple[int, str]:
    """Write one shard, whole or not at all; return its size in bytes and its SHA-256.

    Images are [N,H,W,3], boxes [N,M,4] and the mask [N,M], all contiguous.
    """
    tensors = {"boxes": boxes.astype("<f4", copy=False), "images": images, "mask": mask}
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": DTYPES[name][0],
            "shape": tensor.shape,
            "data_offsets": (offset, offset + tensor.nbytes),
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    digest = hashlib.sha256()
    with writing_file(path) as temporary, temporary.open("wb") as file:
        begin = len(text).to_bytes(8, "little") + text
        for part in (memoryview(begin), *(tensor.data for tensor in tensors.values())):
            view = part.cast("B")
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                digest.update(chunk)
                file.write(chunk)
    return path.stat().st_size, digest.hexdigest()
