"""Ways to read the shards of a warehouse: `memory`, `mmap` or `stream`.

All give the same samples in the same order, and check each shard's SHA-256 when it is first read.

- `memory` reads every shard when it is opened.
- `mmap` maps local files. Pages are loaded as they are touched, and at most `MAPPED_BYTES` stay
  mapped, so that the process does not grow with the number of shards.
- `stream` reads one sample at a time and keeps none. The shards of a URL come through a cache on
  the local disk, a window ahead; those of a folder are read directly.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from haustra.core.checked import CheckedSettings
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, option
from haustra.core.files import writing_file
from haustra.warehouse.format import (
    REBUILD_HINT,
    WRONG_BYTES,
    ShardEntry,
    WarehouseManifest,
    check_file,
    find_damage,
)
from haustra.warehouse.remote import Folder, Location, RemoteFolder
from haustra.warehouse.shard_file import Layout, Tensor, read_layout

StoreName = Literal["memory", "mmap", "stream"]

MAPPED_BYTES = 512 * 2**20
"""Bytes that may be mapped at a time. A larger split drops all maps whenever as much was read."""
DEFAULT_CACHE_GB = 20.0


def default_cache_dir() -> Path:
    """Return the folder of streamed shards, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haustra" / "shards"


@dataclass(frozen=True, kw_only=True)
class StoreConfig(CheckedSettings):
    """Settings for reading shards."""

    kind: StoreName = "mmap"
    verify: bool = True
    """Check each local shard's SHA-256 when it is first read; remote ones are always checked."""
    cache_dir: Path | None = None
    """Folder of streamed shards; `default_cache_dir()` by default."""
    cache_gb: float = DEFAULT_CACHE_GB
    """Disk space for streamed shards in GB; exceeded where three windows need more."""


class Sample(NamedTuple):
    """One image with its boxes. M = `max_boxes`."""

    image: NDArray[np.uint8]
    """[H,W,3] RGB."""
    boxes_xyxy: NDArray[np.float32]
    """[M,4] normalized to the image; unused rows are zero."""
    mask: NDArray[np.uint8]
    """[M], 1 where a box is."""


class Shard(Protocol):
    """One shard, ready to be read."""

    def sample(self, row: int) -> Sample:
        """Return one sample; it may share the shard's memory and must not be changed."""

    def copy(self, row: int, *, to: Sample) -> None:
        """Copy one sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardInMemory:
    """A shard whose bytes are in memory, or mapped. N samples."""

    images: NDArray[np.uint8]
    """[N,H,W,3]."""
    boxes: NDArray[np.float32]
    """[N,M,4]."""
    mask: NDArray[np.uint8]
    """[N,M]."""

    def sample(self, row: int) -> Sample:
        """Return one sample, without a copy."""
        return Sample(self.images[row], self.boxes[row], self.mask[row])

    def copy(self, row: int, *, to: Sample) -> None:
        """Copy one sample."""
        to.image[...] = self.images[row]
        to.boxes_xyxy[...] = self.boxes[row]
        to.mask[...] = self.mask[row]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardOnDisk:
    """A shard whose samples are read from its file one by one; no file stays open."""

    path: Path
    tensors: tuple[Tensor, ...]
    """The places of the images, the boxes and the mask."""

    def sample(self, row: int) -> Sample:
        """Read one sample."""
        image, boxes, mask = (np.empty(t.shape[1:], dtype=t.dtype) for t in self.tensors)
        sample = Sample(image, boxes, mask)
        self.copy(row, to=sample)
        return sample

    def copy(self, row: int, *, to: Sample) -> None:
        """Read one sample into existing memory.

        Raises:
            FileNotFoundError: The file was removed.
            HaustraError: The file was cut short.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            for number, tensor in enumerate(self.tensors):
                target = to[number]
                offset = tensor.start + row * target.nbytes
                if os.preadv(handle, [target.data], offset) != target.nbytes:
                    raise HaustraError(
                        f"{self.path} was cut short while it was read; {REBUILD_HINT}"
                    )
        finally:
            os.close(handle)


def _shard_in_memory(data: NDArray[np.uint8], *, layout: Layout) -> ShardInMemory:
    images, boxes, mask = (
        data[tensor.start : tensor.stop].view(tensor.dtype).reshape(tensor.shape)
        for tensor in (layout[name] for name in ("images", "boxes", "mask"))
    )
    return ShardInMemory(images=images, boxes=boxes, mask=mask)


def _map_file(path: Path) -> NDArray[np.uint8]:
    # A warehouse may have thousands of shards. Unlike Arrow's, each of Python's (so NumPy's) memory
    # maps holds a file open, and a process may open 1024 by default.
    with pa.memory_map(str(path)) as file:
        data: NDArray[np.uint8] = np.frombuffer(file.read_buffer(), dtype=np.uint8)
    return data


class ShardCache:
    """Shards of remote warehouses on the local disk, named by their SHA-256.

    Several trainings may share one folder. A file that is removed while it is mapped stays readable
    until its map is dropped.

    Args:
        folder: Folder of the shards.
        capacity_bytes: Disk space that they may take.
    """

    def __init__(self, folder: Path, *, capacity_bytes: float) -> None:
        self._folder, self._capacity_bytes = folder, capacity_bytes
        self._checked: set[str] = set()
        self._kept: dict[object, set[str]] = {}
        self._lock = threading.Lock()

    def keep(self, sha256s: set[str], *, owner: object) -> None:
        """Keep these shards until `owner` names others."""
        with self._lock:
            self._kept[owner] = sha256s

    def fetch(self, remote: RemoteFolder, *, entry: ShardEntry) -> Path:
        """Return the file of a shard, after fetching it if it is missing or damaged.

        Raises:
            HaustraError: The server failed every time.
        """

        def is_whole(path: Path, *, sha256: str | None = entry.sha256) -> bool:
            return find_damage(path, sha256=sha256, num_bytes=entry.num_bytes) is None

        path = self._folder / f"{entry.sha256}.safetensors"
        with suppress(FileNotFoundError):  # another training makes room at the same time
            if is_whole(path, sha256=None if entry.sha256 in self._checked else entry.sha256):
                os.utime(path)  # marks it as used now
                self._checked.add(entry.sha256)
                return path
        self._make_room(entry.num_bytes)
        with writing_file(path) as temporary:
            remote.download(entry.file, target=temporary, is_whole=is_whole)
        self._checked.add(entry.sha256)
        return path

    def _make_room(self, num_bytes: int) -> None:
        """Remove the least recently used shards until `num_bytes` fit."""
        with self._lock:
            kept = set().union(*self._kept.values())
            files = []
            for path in self._folder.glob("*.safetensors"):
                with suppress(FileNotFoundError):  # another training removed it
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
            total = sum(size for _, size, _ in files) + num_bytes
            for _, size, path in sorted(files):
                if total <= self._capacity_bytes:
                    return
                if path.stem not in kept:
                    path.unlink(missing_ok=True)
                    total -= size


class ShardStore:
    """The shards of one split, each opened and checked when it is first read. Thread-safe.

    Args:
        entries: Entries of the shards in the manifest.
        open_shard: Opens and checks a shard.
        maps_files: The shards are memory maps, which are dropped when they become many.
        cache: Cache that the shards come through, if any.
    """

    def __init__(
        self,
        entries: Sequence[ShardEntry],
        *,
        open_shard: Callable[[ShardEntry], Shard],
        maps_files: bool = False,
        cache: ShardCache | None = None,
    ) -> None:
        self._entries, self._open_shard = tuple(entries), open_shard
        num_bytes = sum(entry.num_bytes for entry in entries)
        self._drops_maps, self._cache = maps_files and num_bytes > MAPPED_BYTES, cache
        self._shards: list[Shard | None] = [None] * len(entries)
        self._locks = [threading.Lock() for _ in entries]
        self._read_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_loaded(self) -> int:
        """Number of shards that are in memory, mapped, or checked on the disk."""
        return sum(shard is not None for shard in self._shards)

    def load(self, number: int) -> Shard:
        """Return a shard.

        Raises:
            HaustraError: The shard is missing or damaged, or its server fails.
        """
        shard = self._shards[number]
        if shard is not None:
            return shard
        with self._locks[number]:
            shard = self._shards[number]
            if shard is None:
                shard = self._shards[number] = self._open_shard(self._entries[number])
        return shard

    def sample(self, number: int, row: int) -> Sample:
        """Return one sample of a shard, which must not be changed; raises as `load` does."""
        while True:
            try:
                sample = self.load(number).sample(row)
            except FileNotFoundError:  # another training made room in the cache
                self._shards[number] = None
            else:
                self._count_read(sample.image.nbytes)
                return sample

    def copy(
        self,
        places: Sequence[tuple[int, int]],
        *,
        images: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        mask: NDArray[np.uint8],
    ) -> None:
        """Copy the samples at these shards and rows, side by side; raises as `load` does."""
        position = 0
        while position < len(places):
            number, row = places[position]
            to = Sample(images[position], boxes[position], mask[position])
            try:
                self.load(number).copy(row, to=to)
            except FileNotFoundError:
                self._shards[number] = None
            else:
                position += 1
        self._count_read(images.nbytes)

    def _count_read(self, num_bytes: int) -> None:
        """Count bytes that were read through maps; drop all maps when they are many."""
        if not self._drops_maps:
            return
        self._read_bytes += num_bytes
        if self._read_bytes > MAPPED_BYTES:
            self._read_bytes = 0
            self._shards = [None] * len(self._entries)

    def keep(self, numbers: set[int]) -> None:
        """Name the shards that are needed soon: a cache keeps them, and may remove others."""
        if self._cache:
            self._cache.keep({self._entries[n].sha256 for n in numbers}, owner=self)


def open_cache(config: StoreConfig) -> ShardCache:
    """Return the cache of streamed shards."""
    return ShardCache(config.cache_dir or default_cache_dir(), capacity_bytes=config.cache_gb * 1e9)


def open_store(
    location: Location,
    *,
    entries: Sequence[ShardEntry],
    manifest: WarehouseManifest,
    config: StoreConfig,
    cache: ShardCache | None,
) -> ShardStore:
    """Open shards in the way of `config.kind`.

    Args:
        location: Place of the warehouse.
        entries: The shards.
        manifest: Manifest that lists them.
        config: How to read them.
        cache: Cache for shards that are streamed from a URL.

    Raises:
        HaustraError: A shard is missing or cut short, or with `memory` damaged; or a URL is to be
            mapped.
    """
    if isinstance(location, Folder):
        for entry in entries:
            check_file(location.path / entry.file, sha256=None, num_bytes=entry.num_bytes)
    elif config.kind == "mmap":
        raise HaustraError(
            f"{option('store', 'mmap')} cannot map {location.url}; expected "
            f"{option('store', 'stream')} or {option('store', 'memory')} for a URL"
        )
    checked: dict[str, Layout] = {}

    def layout_of(data: NDArray[np.uint8], *, entry: ShardEntry) -> Layout:
        if entry.file not in checked:
            checked[entry.file] = read_layout(
                data, name=location.name_of(entry.file), entry=entry, manifest=manifest
            )
        return checked[entry.file]

    def read_whole(entry: ShardEntry) -> Shard:
        if isinstance(location, RemoteFolder):
            data = location.read(entry.file, sha256=entry.sha256)
        else:
            data = (location.path / entry.file).read_bytes()
            if config.verify and digest_bytes(data) != entry.sha256:
                raise HaustraError(f"{location.name_of(entry.file)} {WRONG_BYTES}; {REBUILD_HINT}")
        array = np.frombuffer(data, dtype=np.uint8)
        return _shard_in_memory(array, layout=layout_of(array, entry=entry))

    def find_file(entry: ShardEntry) -> Path:
        if isinstance(location, RemoteFolder):
            if cache is None:
                raise AssertionError("a URL is streamed through a cache")
            return cache.fetch(location, entry=entry)
        path = location.path / entry.file
        # Its bytes are read, not mapped, so that the process does not grow by a shard.
        sha256 = entry.sha256 if config.verify and entry.file not in checked else None
        check_file(path, sha256=sha256, num_bytes=entry.num_bytes)
        return path

    def map_file(entry: ShardEntry) -> Shard:
        data = _map_file(find_file(entry))
        return _shard_in_memory(data, layout=layout_of(data, entry=entry))

    def read_on_demand(entry: ShardEntry) -> Shard:
        path = find_file(entry)
        layout = checked.get(entry.file) or layout_of(_map_file(path), entry=entry)
        tensors = tuple(layout[name] for name in ("images", "boxes", "mask"))
        return ShardOnDisk(path=path, tensors=tensors)

    if config.kind == "memory":
        store = ShardStore(entries, open_shard=read_whole)
        for number in range(len(entries)):
            store.load(number)
        return store
    if config.kind == "mmap":
        return ShardStore(entries, open_shard=map_file, maps_files=True)
    return ShardStore(entries, open_shard=read_on_demand, cache=cache)
