"""How the shards of a warehouse come to memory: `memory`, `mmap` or `stream`.

A store changes where bytes wait, never which bytes come: each shard's SHA-256 is checked when it is
first touched, and the samples and their order are the same.

- `memory` reads every shard when it is opened.
- `mmap` maps files where they lie. Pages come in as they are touched; no more than `MAPPED_BYTES`
  stay, so that the process does not grow with the number of shards.
- `stream` reads one sample at a time and keeps none. The shards of a URL come through a cache on
  the local disk, a window ahead; a folder is read where it lies.
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from haustra.core.digests import digest_bytes, digest_file
from haustra.core.errors import HaustraError
from haustra.core.files import writing_file
from haustra.warehouse.format import ShardEntry, WarehouseManifest
from haustra.warehouse.remote import Folder, Location, RemoteFolder

StoreName = Literal["memory", "mmap", "stream"]

MAPPED_BYTES = 512 * 2**20
"""What may be mapped at a time. Larger splits give all maps back whenever as much was touched."""
DEFAULT_CACHE_GB = 20.0

REBUILD_HINT = "run `haustra etl` again, which rebuilds a damaged warehouse"


def default_cache_dir() -> Path:
    """Return where streamed shards are kept: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haustra" / "shards"


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """How to read shards."""

    kind: StoreName = "mmap"
    verify: bool = True
    """Check each shard's SHA-256 when first touched; what a server sends is always checked."""
    cache_dir: Path | None = None
    """Where streamed shards are kept; `default_cache_dir()` unless given."""
    cache_gb: float = DEFAULT_CACHE_GB
    """Room for streamed shards on the disk; exceeded where three windows need more."""


Sample = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]
"""An image [H,W,3] RGB, boxes [M,4] normalised to it, and their mask [M]."""


class Shard(Protocol):
    """One shard, ready to be read. N samples."""

    def sample(self, row: int) -> Sample:
        """Return one sample; it may show the shard's own memory and must not be changed."""

    def copy(self, row: int, *, to: Sample) -> None:
        """Copy one sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardInMemory:
    """A shard whose bytes are in memory, or mapped."""

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    mask: NDArray[np.uint8]

    def sample(self, row: int) -> Sample:
        """Return one sample, without a copy."""
        return self.images[row], self.boxes[row], self.mask[row]

    def copy(self, row: int, *, to: Sample) -> None:
        """Copy one sample."""
        image, boxes, mask = to
        image[...] = self.images[row]
        boxes[...] = self.boxes[row]
        mask[...] = self.mask[row]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardOnDisk:
    """A shard of which each sample is read when it is asked for; no file stays open."""

    path: Path
    tensors: tuple["_Tensor", ...]
    """Of the images, the boxes and the mask."""

    def sample(self, row: int) -> Sample:
        """Read one sample."""
        image, boxes, mask = (np.empty(t.shape[1:], dtype=t.dtype) for t in self.tensors)
        self.copy(row, to=(image, boxes, mask))
        return image, boxes, mask

    def copy(self, row: int, *, to: Sample) -> None:
        """Read one sample to memory that is there.

        Raises:
            FileNotFoundError: the file was removed.
            HaustraError: it was cut short.
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


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    start: int
    stop: int
    dtype: type[np.generic]
    shape: tuple[int, ...]


_Layout = dict[str, _Tensor]
"""Where each tensor of a shard lies in its file."""


def _read_layout(
    data: NDArray[np.uint8], *, name: str, entry: ShardEntry, manifest: WarehouseManifest
) -> _Layout:
    """Read a safetensors header: 8 bytes of its length, then JSON; the tensors follow."""
    width, height = manifest.target_size_wh
    expected: dict[str, tuple[str, type[np.generic], tuple[int, ...]]] = {
        "images": ("U8", np.uint8, (entry.num_samples, height, width, 3)),
        "boxes": ("F32", np.float32, (entry.num_samples, manifest.max_boxes, 4)),
        "mask": ("U8", np.uint8, (entry.num_samples, manifest.max_boxes)),
    }
    header_size = int.from_bytes(data[:8].tobytes(), "little")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + header_size].tobytes())
        layout = {}
        for tensor, (code, dtype, shape) in expected.items():
            found = (header[tensor]["dtype"], tuple(header[tensor]["shape"]))
            if found != (code, shape):
                raise HaustraError(
                    f"{name}: tensor {tensor!r} is {found}, but its manifest says "
                    f"{(code, shape)}; {REBUILD_HINT}"
                )
            start, stop = (8 + header_size + offset for offset in header[tensor]["data_offsets"])
            data[start:stop].view(dtype).reshape(shape)
            layout[tensor] = _Tensor(start=start, stop=stop, dtype=dtype, shape=shape)
    except (ValueError, KeyError, TypeError) as error:
        raise HaustraError(f"{name} is no shard ({error}); {REBUILD_HINT}") from None
    return layout


def _shard_in_memory(data: NDArray[np.uint8], *, layout: _Layout) -> ShardInMemory:
    arrays: dict[str, Any] = {
        name: data[tensor.start : tensor.stop].view(tensor.dtype).reshape(tensor.shape)
        for name, tensor in layout.items()
    }
    return ShardInMemory(**arrays)


def _map_file(path: Path) -> NDArray[np.uint8]:
    # A warehouse may have thousands of shards. Unlike Arrow's, each of Python's (so NumPy's) memory
    # maps holds a file open, and a process may open 1024 by default.
    with pa.memory_map(str(path)) as file:
        data: NDArray[np.uint8] = np.frombuffer(file.read_buffer(), dtype=np.uint8)
    return data


def _changed(name: str) -> HaustraError:
    return HaustraError(
        f"{name} does not have the SHA-256 that its manifest says: its bytes have changed; "
        f"{REBUILD_HINT}"
    )


def check_shard_size(path: Path, *, entry: ShardEntry) -> None:
    """Check that a shard is there and has its size.

    Raises:
        HaustraError: it is missing or cut short.
    """
    if not path.is_file():
        raise HaustraError(f"{path} is gone, but its manifest lists it; {REBUILD_HINT}")
    num_bytes = path.stat().st_size
    if num_bytes != entry.num_bytes:
        raise HaustraError(
            f"{path} has {num_bytes} bytes, but its manifest says {entry.num_bytes}; {REBUILD_HINT}"
        )


def check_shard_file(path: Path, *, entry: ShardEntry) -> None:
    """Check a shard's size and bytes.

    Raises:
        HaustraError: it is missing or damaged.
    """
    check_shard_size(path, entry=entry)
    if digest_file(path) != entry.sha256:
        raise _changed(str(path))


class ShardCache:
    """Shards of remote warehouses on the local disk, named by their SHA-256.

    Several trainings may share one folder. A file that is removed while it is mapped stays readable
    until its map is given back.
    """

    def __init__(self, folder: Path, *, capacity_bytes: float) -> None:
        self._folder, self._capacity_bytes = folder, capacity_bytes
        self._checked: set[str] = set()
        self._kept: dict[object, set[str]] = {}
        self._lock = threading.Lock()

    def keep(self, sha256s: set[str], *, owner: object) -> None:
        """Never remove these shards, until `owner` names others."""
        with self._lock:
            self._kept[owner] = sha256s

    def fetch(self, remote: RemoteFolder, *, entry: ShardEntry) -> Path:
        """Return the file of a shard, fetched now if it is not there; what is damaged is replaced.

        Raises:
            HaustraError: the server failed every time.
        """

        def is_whole(path: Path) -> bool:
            return path.stat().st_size == entry.num_bytes and digest_file(path) == entry.sha256

        path = self._folder / f"{entry.sha256}.safetensors"
        with suppress(FileNotFoundError):
            if entry.sha256 in self._checked:
                is_right = path.stat().st_size == entry.num_bytes
            else:
                is_right = is_whole(path)
            if is_right:
                os.utime(path)  # used now
                self._checked.add(entry.sha256)
                return path
        self._make_room(entry.num_bytes)
        with writing_file(path) as temporary:
            remote.download(entry.file, target=temporary, is_whole=is_whole)
        self._checked.add(entry.sha256)
        return path

    def _make_room(self, num_bytes: int) -> None:
        """Remove the shards that were not used for longest."""
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
    """The shards of one split, each loaded and checked when it is first touched. Thread-safe."""

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
        self._gives_back, self._cache = maps_files and num_bytes > MAPPED_BYTES, cache
        self._shards: list[Shard | None] = [None] * len(entries)
        self._locks = [threading.Lock() for _ in entries]
        self._touched_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_loaded(self) -> int:
        """Shards that are in memory, mapped, or known to be right on the disk."""
        return sum(shard is not None for shard in self._shards)

    def load(self, number: int) -> Shard:
        """Return a shard.

        Raises:
            HaustraError: it is missing or damaged, or its server fails.
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
        """Return one sample of a shard; it must not be changed.

        Raises:
            HaustraError: as `load`.
        """
        while True:
            try:
                sample = self.load(number).sample(row)
            except FileNotFoundError:  # another training made room in the cache
                self._shards[number] = None
            else:
                self._touched(sample[0].nbytes)
                return sample

    def copy(
        self,
        places: Sequence[tuple[int, int]],
        *,
        images: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        mask: NDArray[np.uint8],
    ) -> None:
        """Copy the samples at these shards and rows, side by side.

        Raises:
            HaustraError: as `load`.
        """
        position = 0
        while position < len(places):
            number, row = places[position]
            to = images[position], boxes[position], mask[position]
            try:
                self.load(number).copy(row, to=to)
            except FileNotFoundError:
                self._shards[number] = None
            else:
                position += 1
        self._touched(images.nbytes)

    def _touched(self, num_bytes: int) -> None:
        """Count bytes that were read through maps; give all maps back when they are many."""
        if not self._gives_back:
            return
        self._touched_bytes += num_bytes
        if self._touched_bytes > MAPPED_BYTES:
            self._touched_bytes = 0
            self._shards = [None] * len(self._entries)

    def keep(self, numbers: set[int]) -> None:
        """Say which shards are needed soon: a cache keeps them, and may remove others."""
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
    """Open shards as `config.kind` says.

    Args:
        location: of the warehouse.
        entries: the shards.
        manifest: that lists them.
        config: how to read them.
        cache: for shards that are streamed from a URL.

    Raises:
        HaustraError: a shard is missing or cut short, or with `memory` damaged; or a URL is not
            streamed or read to memory.
    """
    if isinstance(location, Folder):
        for entry in entries:
            check_shard_size(location.path / entry.file, entry=entry)
    elif config.kind == "mmap":
        raise HaustraError(
            f"--store mmap with {location.url}: expected --store stream, or memory, for a URL"
        )
    checked: dict[str, _Layout] = {}

    def layout_of(data: NDArray[np.uint8], *, entry: ShardEntry) -> _Layout:
        if entry.file not in checked:
            checked[entry.file] = _read_layout(
                data, name=location.name_of(entry.file), entry=entry, manifest=manifest
            )
        return checked[entry.file]

    def read_whole(entry: ShardEntry) -> Shard:
        if isinstance(location, RemoteFolder):
            data = location.read(entry.file, sha256=entry.sha256)
        else:
            data = (location.path / entry.file).read_bytes()
            if config.verify and digest_bytes(data) != entry.sha256:
                raise _changed(location.name_of(entry.file))
        array = np.frombuffer(data, dtype=np.uint8)
        return _shard_in_memory(array, layout=layout_of(array, entry=entry))

    def find_file(entry: ShardEntry) -> Path:
        if isinstance(location, RemoteFolder):
            if cache is None:
                raise AssertionError("a URL is streamed through a cache")
            return cache.fetch(location, entry=entry)
        path = location.path / entry.file
        if config.verify and entry.file not in checked:
            # By reading, not through a map: so the process does not grow by a shard.
            check_shard_file(path, entry=entry)
        else:
            check_shard_size(path, entry=entry)
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
