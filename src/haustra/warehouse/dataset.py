"""An open warehouse and its splits, which are indexed like a list or gathered in batches.

    split = open_warehouse("artifacts/tensor_warehouse/v.../manifest.json").split("train")
    image, boxes_xyxy, mask = split[0]

The digest of the table is checked when a warehouse is opened, that of a shard when it is first
read, so that nothing is trained or measured on data that has changed.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from haustra.core.errors import HaustraError, option
from haustra.core.files import parse_json
from haustra.core.letterbox import Letterbox
from haustra.core.paths import StrPath
from haustra.warehouse.format import (
    REBUILD_HINT,
    SPLIT_NAMES,
    SplitName,
    WarehouseManifest,
    check_file,
    check_manifest,
    read_manifest,
)
from haustra.warehouse.parquet import read_parquet
from haustra.warehouse.remote import Folder, Location, RemoteFolder, parse_location
from haustra.warehouse.shard_stores import Sample, ShardCache, ShardStore, StoreConfig


class Batch(NamedTuple):
    """Samples side by side. B samples, M = `max_boxes`."""

    images: NDArray[np.uint8]
    """[B,H,W,3] RGB."""
    boxes_xyxy: NDArray[np.float32]
    """[B,M,4] normalized to the image; unused rows are zero."""
    mask: NDArray[np.uint8]
    """[B,M], 1 where a box is."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """One split of a warehouse: a sequence of samples in table order.

    It works as the dataset of a `torch.utils.data.DataLoader`: it can be sent to worker processes,
    which open the warehouse again.
    """

    name: SplitName
    warehouse: "Warehouse"
    table: pa.Table
    """The rows of `samples.parquet` of this split."""
    shard_sizes: tuple[int, ...]
    """Number of samples in each shard."""
    store: ShardStore
    first_of_shard: NDArray[np.int64]
    """[num_shards] number of each shard's first sample."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return a copy of one sample, or a list of them.

        Raises:
            IndexError: There is no such sample.
            HaustraError: Its shard is damaged.
        """
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.name} has {len(self)} samples; there is none with {index}")
        batch = self.gather(np.array([number % len(self)]))
        return Sample(batch.images[0], batch.boxes_xyxy[0], batch.mask[0])

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        width, height = self.manifest.target_size_wh
        return (
            f"<Split {self.name} of {self.warehouse.path}: {len(self)} samples of {width}x{height} "
            f"with {self.num_boxes} boxes>"
        )

    def __reduce__(self) -> tuple[Callable[[str], "Split"], tuple[str]]:
        reopen = partial(open_split, split=self.name, config=self.warehouse.config)
        return reopen, (self.warehouse.path,)

    @property
    def manifest(self) -> WarehouseManifest:
        """Manifest of the warehouse."""
        return self.warehouse.manifest

    @property
    def num_boxes(self) -> int:
        """Number of boxes in the split."""
        return self.manifest.splits[self.name].boxes

    def gather(self, indices: NDArray[np.int64]) -> Batch:
        """Copy the samples with these numbers, in this order."""
        (width, height), max_boxes = self.manifest.target_size_wh, self.manifest.max_boxes
        images = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        boxes = np.empty((len(indices), max_boxes, 4), dtype=np.float32)
        mask = np.empty((len(indices), max_boxes), dtype=np.uint8)
        shard_of = np.searchsorted(self.first_of_shard, indices, side="right") - 1
        rows = indices - self.first_of_shard[shard_of]
        for number, (shard, row) in enumerate(zip(shard_of.tolist(), rows.tolist(), strict=True)):
            sample = Sample(images[number], boxes[number], mask[number])
            self.store.sample(shard, row, to=sample)
        return Batch(images, boxes, mask)

    def view(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return one sample's image [H,W,3] and boxes [n,4] without a copy; do not change them."""
        number = int(np.searchsorted(self.first_of_shard, index, side="right")) - 1
        image, boxes, mask = self.store.sample(number, index - int(self.first_of_shard[number]))
        return image, boxes[mask == 1]

    def letterboxes(self) -> list[Letterbox]:
        """Return how each sample's source image was mapped, in order."""
        rows = self.table.select(["source_width", "source_height"]).to_pylist()
        return [self.manifest.letterbox_of(row) for row in rows]

    def sample_ids(self) -> list[str]:
        """Return each sample's `run_id/frame`, in order."""
        return list(self.table.column("sample_id").to_pylist())

    def group_ids(self) -> list[str]:
        """Return each sample's group, in order."""
        return list(self.table.column("group_id").to_pylist())


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Warehouse:
    """An open warehouse: its checked manifest and table. `split` opens the shards of a split."""

    location: Location
    manifest: WarehouseManifest
    table: pa.Table
    """All rows of `samples.parquet`."""
    config: StoreConfig
    cache: ShardCache
    """Cache of the shards that are streamed from a URL."""

    @property
    def path(self) -> str:
        """Path or URL of the manifest."""
        return self.location.name_of(self.location.manifest_name)

    def __repr__(self) -> str:
        width, height = self.manifest.target_size_wh
        splits = self.manifest.splits.items()
        counts = ", ".join(f"{name} {counts.samples}" for name, counts in splits)
        return (
            f"<Warehouse {self.path}: {counts} samples of {width}x{height}, up to "
            f"{self.manifest.max_boxes} boxes each>"
        )

    def __reduce__(self) -> tuple[Callable[[str], "Warehouse"], tuple[str]]:
        return partial(open_warehouse, config=self.config), (self.path,)

    def split(self, name: SplitName) -> Split:
        """Open one split.

        Raises:
            HaustraError: There is no such split, a shard is missing or cut short, or the table
                does not fit the shards.
        """
        if name not in SPLIT_NAMES:
            raise HaustraError(f"{option('split', name)}: expected {', '.join(SPLIT_NAMES)}")
        manifest = self.manifest
        rows = self.table.filter(pc.equal(self.table.column("split"), name))
        entries = [entry for entry in manifest.shards if entry.split == name]
        if isinstance(self.location, Folder):
            for entry in entries:
                check_file(self.location.path / entry.file, sha256=None, num_bytes=entry.num_bytes)
        store = ShardStore(
            self.location, entries=entries, manifest=manifest, config=self.config, cache=self.cache
        )
        sizes = tuple(entry.num_samples for entry in entries)
        if sum(sizes) != rows.num_rows:
            raise HaustraError(
                f"{self.path}: split {name!r} has {sum(sizes)} samples in its shards and "
                f"{rows.num_rows} in its table; {REBUILD_HINT}"
            )
        return Split(
            name=name,
            warehouse=self,
            table=rows,
            shard_sizes=sizes,
            store=store,
            first_of_shard=np.cumsum((0, *sizes))[:-1],
        )


def open_warehouse(manifest: StrPath, *, config: StoreConfig | None = None) -> Warehouse:
    """Open a warehouse: its manifest and its table, whose digest is checked.

    Args:
        manifest: Path or URL of the manifest, or of the folder that holds it.
        config: How to read the shards. By default files are mapped, and a URL is streamed.

    Raises:
        HaustraError: The manifest or the table is missing or damaged, or a server fails.
    """
    location = parse_location(manifest)
    if isinstance(location, RemoteFolder):
        config = config or StoreConfig(kind="stream")
        name = location.name_of(location.manifest_name)
        data = location.read(location.manifest_name)
        value = parse_json(data, name=name, what="a warehouse manifest")
        checked = check_manifest(value, name=name)
    else:
        config = config or StoreConfig()
        checked = read_manifest(location.path / location.manifest_name)
    table_data = location.read(checked.table.file, sha256=checked.table.sha256)
    return Warehouse(
        location=location,
        manifest=checked,
        table=read_parquet(table_data),
        config=config,
        cache=ShardCache(config.cache_dir, capacity_bytes=config.cache_gb * 1e9),
    )


def open_split(manifest: StrPath, *, split: SplitName, config: StoreConfig | None = None) -> Split:
    """Open one split of a warehouse, as `open_warehouse` and `Warehouse.split` do."""
    return open_warehouse(manifest, config=config).split(split)
