"""Reading a warehouse: the manifest, the sample table, and the shards as memory maps.

Digests are checked when a split is opened, before anything trains on it. Opening maps files; the
pixels come in as they are touched.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.letterbox import Letterbox, plan_letterbox
from haustra.warehouse.format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    ShardEntry,
    SplitName,
    WarehouseManifest,
)

REBUILD_HINT = "run `haustra etl` again, which rebuilds a damaged warehouse"


class Batch(NamedTuple):
    """Samples side by side. B samples, M boxes at most."""

    images: NDArray[np.uint8]
    """[B,H,W,3] RGB."""
    boxes_xyxy: NDArray[np.float32]
    """[B,M,4] normalised to the image; unused rows are zero."""
    mask: NDArray[np.uint8]
    """[B,M], 1 where a box is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _MappedShard:
    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One split of a warehouse, its samples numbered from 0 in table order."""

    name: SplitName
    manifest: WarehouseManifest
    table: pa.Table
    """The rows of `samples.parquet` of this split."""
    shards: tuple[_MappedShard, ...]
    first_of_shard: NDArray[np.int64]
    """[num_shards] number of each shard's first sample."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def num_boxes(self) -> int:
        """Boxes in the split."""
        return self.manifest.splits[self.name].boxes

    def gather(self, indices: NDArray[np.int64]) -> Batch:
        """Copy the samples with these numbers, in this order."""
        manifest = self.manifest
        width, height = manifest.target_size_wh
        images = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        boxes = np.empty((len(indices), manifest.max_boxes, 4), dtype=np.float32)
        mask = np.empty((len(indices), manifest.max_boxes), dtype=np.uint8)
        shard_of = np.searchsorted(self.first_of_shard, indices, side="right") - 1
        for position, (index, shard_index) in enumerate(zip(indices, shard_of, strict=True)):
            shard, row = self.shards[shard_index], index - self.first_of_shard[shard_index]
            images[position] = shard.images[row]
            boxes[position] = shard.boxes[row]
            mask[position] = shard.mask[row]
        return Batch(images, boxes, mask)

    def letterboxes(self) -> list[Letterbox]:
        """Return how each sample's source image was mapped, in order."""
        columns = self.table.select(["source_width", "source_height"]).to_pydict()
        return [
            plan_letterbox(
                (width, height),
                target_size_wh=self.manifest.target_size_wh,
                mode=self.manifest.resize_mode,
            )
            for width, height in zip(columns["source_width"], columns["source_height"], strict=True)
        ]

    def sample_ids(self) -> list[str]:
        """Return each sample's `run_id/frame`, in order."""
        names: list[str] = self.table.column("sample_id").to_pylist()
        return names

    def group_ids(self) -> list[str]:
        """Return each sample's group, in order."""
        names: list[str] = self.table.column("group_id").to_pylist()
        return names


def resolve_manifest_path(path: Path) -> Path:
    """Return the manifest's path for a manifest or the warehouse folder that holds it."""
    return path / MANIFEST_NAME if path.is_dir() else path


def read_manifest(path: Path) -> WarehouseManifest:
    """Read and check a manifest.

    Raises:
        HaustraError: missing, not JSON, not a warehouse manifest, or of another format version.
    """
    path = resolve_manifest_path(path)
    if not path.exists():
        raise HaustraError(
            f"{path} does not exist; expected a warehouse manifest; make one with `haustra etl`"
        )
    value = read_json(path, what="a warehouse manifest")
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise HaustraError(
            f"{path} is not a warehouse manifest: its 'format' is not {FORMAT_NAME!r}; expected "
            "the manifest.json that `haustra etl` writes"
        )
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{path} has format version {value.get('format_version')!r}; this haustra reads "
            f"version {FORMAT_VERSION}; build it again with `haustra etl`, or use the haustra "
            "that wrote it"
        )
    try:
        return WarehouseManifest.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise HaustraError(
            f"{path} is damaged: field {field!r}: {problem['msg']}; {REBUILD_HINT}"
        ) from None


def _check_table_file(path: Path, *, sha256: str) -> None:
    if not path.is_file() or digest_file(path) != sha256:
        raise HaustraError(f"{path} is gone or has changed; {REBUILD_HINT}")


def _check_shard_file(path: Path, *, entry: ShardEntry) -> None:
    if not path.is_file():
        raise HaustraError(f"{path} is gone, but its manifest lists it; {REBUILD_HINT}")
    num_bytes = path.stat().st_size
    if num_bytes != entry.num_bytes:
        raise HaustraError(
            f"{path} has {num_bytes} bytes, but its manifest says {entry.num_bytes}; {REBUILD_HINT}"
        )
    if digest_file(path) != entry.sha256:
        raise HaustraError(
            f"{path} does not have the SHA-256 that its manifest says: its bytes have changed; "
            f"{REBUILD_HINT}"
        )


def _map_shard(path: Path, *, entry: ShardEntry, manifest: WarehouseManifest) -> _MappedShard:
    """Map a safetensors file: 8 bytes of header length, a JSON header, then the tensors."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    width, height = manifest.target_size_wh
    expected = {
        "images": ("U8", np.uint8, (entry.num_samples, height, width, 3)),
        "boxes": ("F32", np.float32, (entry.num_samples, manifest.max_boxes, 4)),
        "mask": ("U8", np.uint8, (entry.num_samples, manifest.max_boxes)),
    }
    # A warehouse may have thousands of shards. Unlike Arrow's, each of Python's (so NumPy's) memory
    # maps holds a file open, and a process may open 1024 by default.
    with pa.memory_map(str(path)) as file:
        data = np.frombuffer(file.read_buffer(), dtype=np.uint8)
    arrays = {}
    for name, (code, dtype, shape) in expected.items():
        found = (header[name]["dtype"], tuple(header[name]["shape"]))
        if found != (code, shape):
            raise HaustraError(
                f"{path}: tensor {name!r} is {found}, but its manifest says {(code, shape)}; "
                f"{REBUILD_HINT}"
            )
        start, end = (8 + header_size + offset for offset in header[name]["data_offsets"])
        arrays[name] = data[start:end].view(dtype).reshape(shape)
    return _MappedShard(**arrays)


def check_warehouse(manifest_path: Path) -> WarehouseManifest:
    """Check the digests of the table and of every shard, and return the manifest.

    Raises:
        HaustraError: naming the first file that is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    manifest = read_manifest(manifest_path)
    _check_table_file(manifest_path.parent / manifest.table.file, sha256=manifest.table.sha256)
    for entry in manifest.shards:
        _check_shard_file(manifest_path.parent / entry.file, entry=entry)
    return manifest


def open_split(manifest_path: Path, *, split: SplitName) -> Split:
    """Open one split of a warehouse, its shards' and table's digests checked.

    Raises:
        HaustraError: the manifest, the table or a shard is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    manifest = read_manifest(manifest_path)
    folder = manifest_path.parent
    table_path = folder / manifest.table.file
    _check_table_file(table_path, sha256=manifest.table.sha256)
    table = pq.read_table(table_path)
    rows = table.filter(pa.compute.equal(table.column("split"), split))
    entries = [entry for entry in manifest.shards if entry.split == split]
    for entry in entries:
        _check_shard_file(folder / entry.file, entry=entry)
    sizes = [entry.num_samples for entry in entries]
    if sum(sizes) != rows.num_rows:
        raise HaustraError(
            f"{manifest_path}: split {split!r} has {sum(sizes)} samples in its shards and "
            f"{rows.num_rows} in its table; {REBUILD_HINT}"
        )
    return Split(
        name=split,
        manifest=manifest,
        table=rows,
        shards=tuple(
            _map_shard(folder / entry.file, entry=entry, manifest=manifest) for entry in entries
        ),
        first_of_shard=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        if sizes
        else np.zeros(0, dtype=np.int64),
    )
