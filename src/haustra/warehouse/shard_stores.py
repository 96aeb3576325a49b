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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from haustra.core.checked import CheckedSettings
from haustra.core.errors import HaustraError, option
from haustra.core.files import writing_file
from haustra.warehouse.format import (
    REBUILD_HINT,
    ShardEntry,
    WarehouseManifest,
    check_file,
    find_damage,
)
from haustra.warehouse.remote import Location, RemoteFolder
from haustra.warehouse.shard_file import Layout, read_layout

StoreName = Literal["memory", "mmap", "stream"]

MAPPED_BYTES = 512 * 2**20
"""Bytes that may be mapped at a time. A larger split drops all maps whenever as much was read."""
DEFAULT_CACHE_GB = 20.0


@dataclass(frozen=True, kw_only=True)
class StoreConfig(CheckedSettings):
    """Settings for reading shards."""

    kind: StoreName = "mmap"
    verify: bool = True
    """Check each local shard's SHA-256 when it is first read; remote ones are always checked."""
    cache_dir: Path | None = None
    """Folder of streamed shards; None is `ShardCache`'s default."""
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardInMemory:
    """A shard whose bytes are in memory, or mapped. N samples."""

    tensors: tuple[NDArray[Any], ...]
    """The images uint8 [N,H,W,3], boxes float32 [N,M,4] and mask uint8 [N,M]."""

    def sample(self, row: int, *, to: Sample | None = None) -> Sample:
        """Copy one sample into `to`, or return it without a copy."""
        if to is None:
            return Sample(*(tensor[row] for tensor in self.tensors))
        for number, tensor in enumerate(self.tensors):
            to[number][...] = tensor[row]
        return to


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardOnDisk:
    """A shard whose samples are read from its file one by one; no file stays open."""

    path: Path
    layout: Layout

    def sample(self, row: int, *, to: Sample | None = None) -> Sample:
        """Read one sample, into `to` if it is given.

        Raises:
            FileNotFoundError: The file was removed.
            HaustraError: The file was cut short.
        """
        to = to or Sample(*(np.empty(place.shape[1:], dtype=place.dtype) for place in self.layout))
        handle = os.open(self.path, os.O_RDONLY)
        try:
            for number, place in enumerate(self.layout):
                target = to[number]
                offset = place.start + row * target.nbytes
                if os.preadv(handle, [target.data], offset) != target.nbytes:
                    raise HaustraError(
                        f"{self.path} was cut short while it was read; {REBUILD_HINT}"
                    )
        finally:
            os.close(handle)
        return to


def map_file(path: Path) -> NDArray[np.uint8]:
    """Map the bytes of a file."""
    # A warehouse may have thousands of shards. Unlike Arrow's, each of Python's (so NumPy's) memory
    # maps holds a file open, and a process may open 1024 by default.
    with pa.memory_map(os.fsencode(path)) as file:  # as text it would have to be UTF-8
        data: NDArray[np.uint8] = np.frombuffer(file.read_buffer(), dtype=np.uint8)
    return data


class ShardCache:
    """Shards of remote warehouses on the local disk, named by their SHA-256.

    Several trainings may share one folder. A file that is removed while it is mapped stays readable
    until its map is dropped.

    Args:
        folder: Folder of the shards; by default below XDG_CACHE_HOME or ~/.cache.
    """

    def __init__(self, folder: Path | None, *, capacity_bytes: float) -> None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or caches / "haustra" / "shards"
        self._capacity_bytes = capacity_bytes
        self._checked: set[str] = set()
        self._kept: dict[object, set[str]] = {}
        self._lock = threading.Lock()

    def keep(self, sha256s: set[str], *, owner: object) -> None:
        """Keep these shards until `owner` names others."""
        with self._lock:
            self._kept[owner] = sha256s

    def fetch(self, remote: RemoteFolder, *, entry: ShardEntry) -> Path:
        """Return the file of a shard, after fetching it if it is missing or damaged."""

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
    """Shards of a warehouse, each opened and checked when it is first read. Thread-safe.

    Args:
        cache: Cache for shards that are streamed from a URL.

    Raises:
        HaustraError: A URL is to be mapped, or with `memory` a shard is missing or damaged.
    """

    def __init__(
        self,
        location: Location,
        *,
        entries: Sequence[ShardEntry],
        manifest: WarehouseManifest,
        config: StoreConfig,
        cache: ShardCache | None = None,
    ) -> None:
        if isinstance(location, RemoteFolder) and config.kind == "mmap":
            raise HaustraError(
                f"{option('store', 'mmap')} cannot map {location.url}; expected "
                f"{option('store', 'stream')} or {option('store', 'memory')} for a URL"
            )
        self._location, self._entries, self._manifest = location, tuple(entries), manifest
        self._config, self._cache = config, cache
        num_bytes = sum(entry.num_bytes for entry in entries)
        self._drops_maps = config.kind == "mmap" and num_bytes > MAPPED_BYTES
        self._shards: list[ShardInMemory | ShardOnDisk | None] = [None] * len(entries)
        self._layouts: list[Layout | None] = [None] * len(entries)
        self._locks = [threading.Lock() for _ in entries]
        self._read_bytes = 0
        if config.kind == "memory":
            for number in range(len(entries)):
                self.load(number)

    def _layout_of(self, number: int, *, data: NDArray[np.uint8]) -> Layout:
        entry = self._entries[number]
        layout = self._layouts[number] or read_layout(data, entry=entry, manifest=self._manifest)
        if isinstance(layout, str):
            name = self._location.name_of(entry.file)
            raise HaustraError(f"{name} is not a shard ({layout}); {REBUILD_HINT}")
        self._layouts[number] = layout
        return layout

    def _find_file(self, number: int) -> Path:
        entry = self._entries[number]
        if isinstance(self._location, RemoteFolder):
            if self._cache is None:
                raise AssertionError("a URL is streamed through a cache")
            return self._cache.fetch(self._location, entry=entry)
        path = self._location.path / entry.file
        # Its bytes are read, not mapped, so that the process does not grow by a shard.
        sha256 = entry.sha256 if self._config.verify and not self._layouts[number] else None
        check_file(path, sha256=sha256, num_bytes=entry.num_bytes)
        return path

    def _open(self, number: int) -> ShardInMemory | ShardOnDisk:
        entry, layout = self._entries[number], self._layouts[number]
        if self._config.kind == "stream":
            path = self._find_file(number)
            layout = layout or self._layout_of(number, data=map_file(path))
            return ShardOnDisk(path=path, layout=layout)
        if self._config.kind == "mmap":
            data = map_file(self._find_file(number))
        else:
            is_checked = self._config.verify or isinstance(self._location, RemoteFolder)
            sha256 = entry.sha256 if is_checked else None
            data = np.frombuffer(self._location.read(entry.file, sha256=sha256), dtype=np.uint8)
        layout = self._layout_of(number, data=data)
        return ShardInMemory(tensors=tuple(place.view(data) for place in layout))

    def load(self, number: int) -> ShardInMemory | ShardOnDisk:
        """Return a shard."""
        shard = self._shards[number]
        if shard is not None:
            return shard
        with self._locks[number]:
            shard = self._shards[number]
            if shard is None:
                shard = self._shards[number] = self._open(number)
        return shard

    def sample(self, number: int, row: int, *, to: Sample | None = None) -> Sample:
        """Copy one sample of a shard into `to`; without it, return one that must not be changed.

        Raises as `load` does.
        """
        while True:
            try:
                sample = self.load(number).sample(row, to=to)
                break
            except FileNotFoundError:  # another training made room in the cache
                self._shards[number] = None
        if self._drops_maps:
            self._read_bytes += sample.image.nbytes
            if self._read_bytes > MAPPED_BYTES:
                self._read_bytes = 0
                self._shards = [None] * len(self._entries)
        return sample

    def keep(self, numbers: set[int]) -> None:
        """Name the shards that are needed soon: a cache keeps them, and may remove others."""
        if self._cache:
            self._cache.keep({self._entries[n].sha256 for n in numbers}, owner=self)
