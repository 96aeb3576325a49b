"""Reading a warehouse: the manifest, the sample table, and the shards of a split.

The digest of the table is checked when a warehouse is opened, that of a shard when it is first
touched: nothing is trained or measured on what has changed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.files import parse_json
from haustra.core.letterbox import Letterbox, plan_letterbox
from haustra.warehouse.format import SplitName, WarehouseManifest
from haustra.warehouse.manifest import check_file, check_manifest, read_manifest
from haustra.warehouse.remote import Location, RemoteFolder, parse_location
from haustra.warehouse.shard_stores import (
    REBUILD_HINT,
    ShardCache,
    ShardStore,
    StoreConfig,
    open_cache,
    open_store,
)


class Batch(NamedTuple):
    """Samples side by side. B samples, M boxes at most."""

    images: NDArray[np.uint8]
    """[B,H,W,3] RGB."""
    boxes_xyxy: NDArray[np.float32]
    """[B,M,4] normalised to the image; unused rows are zero."""
    mask: NDArray[np.uint8]
    """[B,M], 1 where a box is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One split of a warehouse, its samples numbered from 0 in table order."""

    name: SplitName
    manifest: WarehouseManifest
    table: pa.Table
    """The rows of `samples.parquet` of this split."""
    shard_sizes: tuple[int, ...]
    """Samples in each shard."""
    store: ShardStore
    """The shards."""
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
        (width, height), max_boxes = self.manifest.target_size_wh, self.manifest.max_boxes
        images = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        boxes = np.empty((len(indices), max_boxes, 4), dtype=np.float32)
        mask = np.empty((len(indices), max_boxes), dtype=np.uint8)
        shard_of = np.searchsorted(self.first_of_shard, indices, side="right") - 1
        rows = indices - self.first_of_shard[shard_of]
        places = list(zip(shard_of.tolist(), rows.tolist(), strict=True))
        self.store.copy(places, images=images, boxes=boxes, mask=mask)
        return Batch(images, boxes, mask)

    def view(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return one sample's image [H,W,3] and boxes [n,4], which must not be changed."""
        number = int(np.searchsorted(self.first_of_shard, index, side="right")) - 1
        image, boxes, mask = self.store.sample(number, index - int(self.first_of_shard[number]))
        return image, boxes[mask == 1]

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Warehouse:
    """An open warehouse: its checked manifest and table; the shards of a split open with it."""

    location: Location
    manifest: WarehouseManifest
    table: pa.Table
    """All rows of `samples.parquet`."""
    config: StoreConfig
    cache: ShardCache | None
    """Of streamed shards."""

    def split(self, name: SplitName) -> Split:
        """Open one split.

        Raises:
            HaustraError: a shard is missing or cut short, or the table does not fit the shards.
        """
        manifest = self.manifest
        rows = self.table.filter(pa.compute.equal(self.table.column("split"), name))
        entries = [entry for entry in manifest.shards if entry.split == name]
        store = open_store(
            self.location, entries=entries, manifest=manifest, config=self.config, cache=self.cache
        )
        sizes = tuple(entry.num_samples for entry in entries)
        if sum(sizes) != rows.num_rows:
            raise HaustraError(
                f"{self.location.name_of(self.location.manifest_name)}: split {name!r} has "
                f"{sum(sizes)} samples in its shards and {rows.num_rows} in its table; "
                f"{REBUILD_HINT}"
            )
        return Split(
            name=name,
            manifest=manifest,
            table=rows,
            shard_sizes=sizes,
            store=store,
            first_of_shard=np.cumsum((0, *sizes))[:-1],
        )


def open_warehouse(manifest: str | Path, *, config: StoreConfig | None = None) -> Warehouse:
    """Open a warehouse: its manifest and its table, whose digest is checked.

    Args:
        manifest: path or URL of the manifest, or of the folder that holds it.
        config: how to read the shards.

    Raises:
        HaustraError: the manifest or the table is missing or damaged, or a server fails.
    """
    config = config or StoreConfig()
    location = parse_location(manifest)
    cache = None
    if isinstance(location, RemoteFolder):
        name = location.name_of(location.manifest_name)
        value = parse_json(
            location.read(location.manifest_name), name=name, what="a warehouse manifest"
        )
        checked = check_manifest(value, path=name)
        table_data = location.read(checked.table.file, sha256=checked.table.sha256)
        cache = open_cache(config) if config.kind == "stream" else None
    else:
        checked = read_manifest(location.path / location.manifest_name)
        table_path = location.path / checked.table.file
        check_file(table_path, sha256=checked.table.sha256)
        table_data = table_path.read_bytes()
    return Warehouse(
        location=location,
        manifest=checked,
        table=pq.read_table(pa.BufferReader(table_data)),
        config=config,
        cache=cache,
    )


def open_split(
    manifest: str | Path, *, split: SplitName, config: StoreConfig | None = None
) -> Split:
    """Open one split of a warehouse; its shards are checked when they are first touched.

    Raises:
        HaustraError: the manifest or the table is missing or damaged, a shard is missing or cut
            short, or a server fails.
    """
    return open_warehouse(manifest, config=config).split(split)
