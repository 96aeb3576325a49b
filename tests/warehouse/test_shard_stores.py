import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from numpy.typing import NDArray

from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError
from haustra.warehouse import remote, shard_stores
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Batch, open_split, open_warehouse
from haustra.warehouse.format import read_manifest
from haustra.warehouse.order import epoch_order
from haustra.warehouse.shard_stores import ShardCache, StoreConfig, StoreName, map_file
from scenes import write_warehouse
from servers import BUCKET, FailingLine, s3_server, upload_folder

STORES: tuple[StoreName, ...] = ("memory", "mmap", "stream")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("store"), num_runs=12, split="0.8,0.1,0.1")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def memory_url(manifest: Path) -> Iterator[str]:
    """Put the warehouse on fsspec's file system in memory."""
    file_system = fsspec.filesystem("memory")
    file_system.put(str(manifest.parent), "/warehouse", recursive=True)
    yield f"memory://warehouse/{manifest.name}"
    file_system.rm("/warehouse", recursive=True)


def damaged_copy(manifest: Path, folder: Path) -> tuple[Path, Path]:
    """Return a copy of a warehouse with one changed bit, and the shard that has it."""
    copy = folder / manifest.parent.name
    shutil.copytree(manifest.parent, copy)
    path = copy / read_manifest(manifest).shards[0].file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return copy / manifest.name, path


def read_all(manifest: Path | str, *, config: StoreConfig) -> Batch:
    """Return all training samples, read in windows, in stored order."""
    split = open_split(manifest, split="train", config=config)
    order = epoch_order(split.shard_sizes, seed=0, epoch=0, window_size=9)
    numbers, batches = zip(
        *iterate_batches(split, order=order, batch_size=5, num_workers=2), strict=True
    )
    back = np.argsort(np.concatenate(numbers))
    return Batch(*(np.concatenate(parts)[back] for parts in zip(*batches, strict=True)))


def assert_equal(found: Batch, expected: Batch) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", STORES)
def test_every_store_gives_the_same_samples(manifest: Path, kind: StoreName) -> None:
    split = open_split(manifest, split="train")
    expected = split.gather(np.arange(len(split)))
    assert_equal(read_all(manifest, config=StoreConfig(kind=kind)), expected)


@pytest.mark.parametrize("kind", STORES)
def test_a_changed_bit_stops_the_reader_and_names_the_shard(
    manifest: Path, tmp_path: Path, kind: StoreName
) -> None:
    damaged, shard = damaged_copy(manifest, tmp_path)
    with pytest.raises(HaustraError) as caught:
        read_all(damaged, config=StoreConfig(kind=kind))
    assert str(caught.value) == (
        f"{shard} does not have the SHA-256 that its manifest says: its bytes have changed; "
        "run `haustra etl` again, which rebuilds a damaged warehouse"
    )


@pytest.mark.parametrize("kind", STORES)
def test_without_verification_it_is_not_looked_for(
    manifest: Path, tmp_path: Path, kind: StoreName
) -> None:
    damaged, _ = damaged_copy(manifest, tmp_path)
    read_all(damaged, config=StoreConfig(kind=kind, verify=False))


def test_a_shard_is_checked_once_and_only_when_it_is_touched(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def recorded(path: Path) -> str:
        if path.suffix == ".safetensors":
            checked.append(path.name)
        return digest_file(path)

    monkeypatch.setattr("haustra.warehouse.format.digest_file", recorded)
    split = open_split(manifest, split="train")
    assert checked == []
    for _ in range(2):
        split.gather(np.zeros(1, dtype=np.int64))
    names = [Path(entry.file).name for entry in split.manifest.shards if entry.split == "train"]
    assert checked == names[:1]
    split.gather(np.arange(len(split)))
    assert checked == names


def test_without_verification_a_broken_header_is_named(manifest: Path, tmp_path: Path) -> None:
    damaged, shard = damaged_copy(manifest, tmp_path)
    data = bytearray(shard.read_bytes())
    data[20] ^= 0x80
    shard.write_bytes(data)
    with pytest.raises(HaustraError, match=f"^{shard} is not a shard "):
        read_all(damaged, config=StoreConfig(verify=False))


def test_maps_are_given_back_and_come_again(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[Path] = []

    def recorded(path: Path) -> NDArray[np.uint8]:
        mapped.append(path)
        return map_file(path)

    monkeypatch.setattr(shard_stores, "MAPPED_BYTES", 20_000)
    monkeypatch.setattr(shard_stores, "map_file", recorded)
    split = open_split(manifest, split="train")
    image, _ = split.view(0)
    assert len(mapped) == 1
    expected = image.copy()
    for _ in range(2):
        split.gather(np.arange(len(split)))
    assert len(mapped) > len(split.shard_sizes)  # they are mapped again
    np.testing.assert_array_equal(image, expected)  # who still looks at a shard keeps it
    assert_equal(read_all(manifest, config=StoreConfig()), split.gather(np.arange(len(split))))


def test_a_warehouse_behind_a_url_is_read_through_a_cache(
    manifest: Path, memory_url: str, tmp_path: Path
) -> None:
    expected = read_all(manifest, config=StoreConfig())
    config = StoreConfig(kind="stream", cache_dir=tmp_path)
    assert_equal(read_all(memory_url, config=config), expected)
    train = [entry for entry in read_manifest(manifest).shards if entry.split == "train"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{entry.sha256}.safetensors" for entry in train
    }
    # Now all shards come from the cache.
    fsspec.filesystem("memory").rm("/warehouse/shards", recursive=True)
    assert_equal(read_all(memory_url, config=config), expected)


def test_a_warehouse_behind_a_url_can_be_read_to_memory(manifest: Path, memory_url: str) -> None:
    expected = read_all(manifest, config=StoreConfig())
    assert_equal(read_all(memory_url, config=StoreConfig(kind="memory")), expected)


def test_the_folder_of_a_url_stands_for_its_manifest(manifest: Path, memory_url: str) -> None:
    folder_url = memory_url.rpartition("/")[0]
    for url in (folder_url, f"{folder_url}/"):
        opened = open_warehouse(url, config=StoreConfig(kind="memory"))
        assert opened.manifest == read_manifest(manifest)


def test_a_url_is_not_mapped(memory_url: str) -> None:
    with pytest.raises(HaustraError) as caught:
        open_split(memory_url, split="train", config=StoreConfig(kind="mmap"))
    assert str(caught.value) == (
        "store='mmap' cannot map memory://warehouse; expected store='stream' or store='memory' for "
        "a URL"
    )


def test_a_damaged_file_in_the_cache_is_fetched_again(
    manifest: Path, memory_url: str, tmp_path: Path
) -> None:
    config = StoreConfig(kind="stream", cache_dir=tmp_path)
    expected = read_all(memory_url, config=config)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if number % 2 else data[:-1] + bytes([data[-1] ^ 1]))
    assert_equal(read_all(memory_url, config=config), expected)


def test_wrong_bytes_from_a_server_are_never_used(
    manifest: Path, memory_url: str, tmp_path: Path, no_pauses: None
) -> None:
    file = read_manifest(manifest).shards[0].file
    fsspec.filesystem("memory").pipe(f"/warehouse/{file}", b"nonsense")
    with pytest.raises(HaustraError) as caught:
        read_all(memory_url, config=StoreConfig(kind="stream", cache_dir=tmp_path))
    assert str(caught.value) == (
        f"memory://warehouse/{file} could not be read in 4 attempts, the last failed with: "
        "OSError: what was read does not have the SHA-256 that its manifest says: its bytes have "
        "changed; expected a server that answers; run the same command again"
    )
    assert not list(tmp_path.glob(".*"))


def test_a_missing_warehouse_behind_a_url_is_named() -> None:
    with pytest.raises(HaustraError) as caught:
        open_warehouse("memory://nowhere/manifest.json", config=StoreConfig(kind="stream"))
    assert str(caught.value) == (
        "memory://nowhere/manifest.json: FileNotFoundError: /nowhere/manifest.json; expected a "
        "warehouse that this account may read; check the URL and the credentials"
    )


def test_an_unknown_kind_of_url_is_named() -> None:
    with pytest.raises(HaustraError) as caught:
        open_warehouse("floppy://a/manifest.json", config=StoreConfig(kind="stream"))
    assert str(caught.value) == (
        "floppy://a/manifest.json: Protocol not known: floppy; expected a folder of this machine "
        "or a URL that an installed package of fsspec opens, such as s3://BUCKET/FOLDER"
    )


def test_the_cache_stays_within_its_capacity_but_keeps_needed_shards(
    manifest: Path, memory_url: str, tmp_path: Path
) -> None:
    location = open_warehouse(memory_url, config=StoreConfig(kind="memory")).location
    assert isinstance(location, remote.RemoteFolder)
    entries = read_manifest(manifest).shards[:6]
    room = sum(entry.num_bytes for entry in entries[:3])
    cache = ShardCache(tmp_path, capacity_bytes=room)

    def cached() -> list[int]:
        names = {path.stem for path in tmp_path.glob("*.safetensors")}
        return [number for number, entry in enumerate(entries) if entry.sha256 in names]

    for entry in entries[:3]:
        cache.fetch(location, entry=entry)
    assert cached() == [0, 1, 2]
    cache.fetch(location, entry=entries[0])
    cache.fetch(location, entry=entries[3])
    assert cached() == [0, 2, 3]  # 1 was used least recently
    cache.keep({entry.sha256 for entry in entries}, owner="a split")
    cache.fetch(location, entry=entries[4])
    assert cached() == [0, 2, 3, 4]
    cache.keep({entries[4].sha256}, owner="a split")
    cache.fetch(location, entry=entries[5])
    assert cached() == [3, 4, 5]


def test_windows_larger_than_the_cache_still_give_every_sample(
    manifest: Path, memory_url: str, tmp_path: Path
) -> None:
    expected = read_all(manifest, config=StoreConfig())
    config = StoreConfig(kind="stream", cache_dir=tmp_path, cache_gb=1e-9)
    assert_equal(read_all(memory_url, config=config), expected)


@pytest.fixture(scope="module")
def s3_url(manifest: Path) -> Iterator[str]:
    """Serve the warehouse by S3; yield the server's URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with s3_server() as url:
            upload_folder(url, manifest.parent, prefix="warehouse")
            yield url


@pytest.mark.slow
def test_s3_serves_a_warehouse(
    manifest: Path, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    s3fs.S3FileSystem.clear_instance_cache()
    config = StoreConfig(kind="stream", cache_dir=tmp_path)
    found = read_all(f"s3://{BUCKET}/warehouse/manifest.json", config=config)
    assert_equal(found, read_all(manifest, config=StoreConfig()))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "share"), [("cut", 0.02), ("slow", 0.3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_server_that_drops_connections_or_is_slow_costs_time_only(
    manifest: Path,
    s3_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pauses: None,
    fault: str,
    share: float,
    seed: int,
) -> None:
    line = FailingLine(s3_url, fault=fault, share=share, seed=seed)  # type: ignore[arg-type]
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        config = StoreConfig(kind="stream", cache_dir=tmp_path)
        found = read_all(f"s3://{BUCKET}/warehouse", config=config)
    finally:
        line.close()
    assert line.num_faults > 0
    assert_equal(found, read_all(manifest, config=StoreConfig()))


@pytest.mark.slow
def test_a_server_that_never_answers_is_named(
    monkeypatch: pytest.MonkeyPatch, no_pauses: None, s3_url: str
) -> None:
    line = FailingLine(s3_url, fault="cut", share=1.0, seed=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else botocore and s3fs take a minute to give up
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(HaustraError, match=r"could not be read in 2 attempts, the last failed"):
            open_warehouse(f"s3://{BUCKET}/warehouse", config=StoreConfig(kind="stream"))
    finally:
        line.close()
