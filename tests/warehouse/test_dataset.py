import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from haustra.core.errors import HaustraError
from haustra.warehouse.dataset import open_split, open_warehouse
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import read_manifest
from haustra.warehouse.shard_stores import StoreConfig, StoreName
from haustra.warehouse.verify import verify_warehouse
from scenes import write_captures, write_warehouse

HINT = "run `haustra etl` again, which rebuilds a damaged warehouse"


def first_shard(manifest: Path) -> Path:
    return manifest.parent / read_manifest(manifest).shards[0].file


def delete(manifest: Path) -> None:
    first_shard(manifest).unlink()


def truncate(manifest: Path) -> None:
    data = first_shard(manifest).read_bytes()
    first_shard(manifest).write_bytes(data[:-100])


def flip_a_bit(manifest: Path) -> None:
    data = bytearray(first_shard(manifest).read_bytes())
    data[len(data) // 2] ^= 1
    first_shard(manifest).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (delete, r"{shard} is gone, but its manifest lists it; {hint}"),
        (truncate, r"{shard} has \d+ bytes, but its manifest says \d+; {hint}"),
        (
            flip_a_bit,
            (
                r"{shard} does not have the SHA-256 that its manifest says: its bytes have "
                r"changed; {hint}"
            ),
        ),
    ],
)
def test_a_damaged_shard_is_named(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    manifest = write_warehouse(tmp_path)
    damage(manifest)
    with pytest.raises(HaustraError) as caught:
        open_split(manifest, split="train").gather(np.arange(1))
    expected = message.format(shard=re.escape(str(first_shard(manifest))), hint=re.escape(HINT))
    assert re.fullmatch(expected, str(caught.value))


def test_a_changed_table_is_named(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    table = manifest.parent / "samples.parquet"
    table.write_bytes(table.read_bytes()[::-1])
    with pytest.raises(HaustraError) as caught:
        open_split(manifest, split="train")
    assert str(caught.value) == (
        f"{table} does not have the SHA-256 that its manifest says: its bytes have changed; {HINT}"
    )


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(HaustraError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path} does not exist; expected a warehouse manifest; make one with `haustra etl`"
    )


def test_a_manifest_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"format": ')
    with pytest.raises(HaustraError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path} is not JSON (line 1: Expecting value); expected a warehouse manifest"
    )


def test_json_of_another_kind_than_a_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("[]")
    with pytest.raises(HaustraError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path} is not a warehouse manifest: its 'format' is not 'haustra-warehouse'; expected "
        "the manifest.json that `haustra etl` writes"
    )


def test_an_unknown_format_version_is_refused_naming_both(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    value = json.loads(manifest.read_text()) | {"format_version": 7}
    manifest.write_text(json.dumps(value))
    with pytest.raises(HaustraError) as caught:
        read_manifest(manifest)
    assert str(caught.value) == (
        f"{manifest} has format version 7; this haustra reads version 1; build it again with "
        "`haustra etl`, or use the haustra that wrote it"
    )


def test_a_manifest_with_a_damaged_field_is_named(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    value = json.loads(manifest.read_text()) | {"max_boxes": "many"}
    manifest.write_text(json.dumps(value))
    with pytest.raises(HaustraError, match=r"is damaged: field 'max_boxes'"):
        read_manifest(manifest)


def call_a_test_shard_a_training_shard(value: dict[str, Any]) -> None:
    train, test = (
        next(entry for entry in value["shards"] if entry["split"] == split)
        for split in ("train", "test")
    )
    assert train["num_samples"] == test["num_samples"]
    train["split"], test["split"] = "test", "train"


@pytest.mark.parametrize(
    "edit",
    [
        call_a_test_shard_a_training_shard,
        lambda value: value["shards"].reverse(),
        lambda value: value.update(class_names=["adenoma"]),
        lambda value: value.update(resize_mode="force"),
        lambda value: value["sources"][0].update(licence="CC0"),
        lambda value: value.update(manifest_sha256="0" * 64),
        lambda value: value.pop("manifest_sha256"),
    ],
)
def test_a_manifest_edited_to_plausible_values_is_refused_and_built_again(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    manifest = write_warehouse(tmp_path)
    whole = manifest.read_bytes()
    value = json.loads(whole)
    edit(value)
    manifest.write_text(json.dumps(value, indent=2))
    message = (
        f"{manifest} has changed since `haustra etl` wrote it: its fields do not have the SHA-256 "
        f"in 'manifest_sha256'; {HINT}"
    )
    work: list[Callable[[], object]] = [
        lambda: open_split(manifest, split="train"),
        lambda: verify_warehouse(manifest),
    ]
    for read in work:
        with pytest.raises(HaustraError) as caught:
            read()
        assert str(caught.value) == message
    shutil.rmtree(tmp_path / "captures")
    assert write_warehouse(tmp_path) == manifest
    assert manifest.read_bytes() == whole


def test_the_seal_of_a_manifest_is_the_digest_of_its_other_fields(tmp_path: Path) -> None:
    value = json.loads(write_warehouse(tmp_path).read_text())
    seal = value.pop("manifest_sha256")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert seal == hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_written_with_other_spaces_and_order_is_the_same(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    before = read_manifest(manifest)
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(dict(reversed(value.items()))))
    assert read_manifest(manifest) == before


def test_the_warehouse_folder_stands_for_its_manifest(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    assert read_manifest(manifest.parent) == read_manifest(manifest)


def test_gather_returns_the_samples_asked_for_in_that_order(tmp_path: Path) -> None:
    split = open_split(write_warehouse(tmp_path), split="train")
    whole = split.gather(np.arange(len(split)))
    indices = np.array([len(split) - 1, 0, 3, 3])
    some = split.gather(indices)
    np.testing.assert_array_equal(some.images, whole.images[indices])
    np.testing.assert_array_equal(some.boxes_xyxy, whole.boxes_xyxy[indices])
    np.testing.assert_array_equal(some.mask, whole.mask[indices])
    assert len({image.tobytes() for image in whole.images}) == len(split)


def test_many_shards_keep_no_file_open(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", num_runs=4, frames_per_run=40, size_wh=(32, 32))
    config = ETLConfig(
        captures=tmp_path / "captures",
        output_root=tmp_path / "warehouse",
        target_size="32",
        samples_per_shard=1,
        split="1,0,0",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        result = build_warehouse(config)
        split = open_split(result.manifest_path, split="train")
        batch = split.gather(np.arange(len(split)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(split.shard_sizes) == len(split) == len(batch.images) == 160
    assert len({image.tobytes() for image in batch.images}) == 160


@pytest.fixture(scope="module")
def warehouse_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_warehouse(tmp_path_factory.mktemp("indexed")))


def test_a_split_is_indexed_like_a_sequence(warehouse_path: str) -> None:
    split = open_warehouse(warehouse_path).split("train")
    batch = split.gather(np.arange(len(split)))
    assert len(list(split)) == len(split) > 3
    for number, sample in enumerate(split):
        np.testing.assert_array_equal(sample.image, batch.images[number])
        np.testing.assert_array_equal(sample.boxes_xyxy, batch.boxes_xyxy[number])
        np.testing.assert_array_equal(sample.mask, batch.mask[number])
    np.testing.assert_array_equal(split[-1].image, batch.images[-1])
    numpy_index: Any = np.int64(2)
    np.testing.assert_array_equal(split[numpy_index].image, batch.images[2])
    backwards = split[2::-1]
    assert len(backwards) == 3
    np.testing.assert_array_equal(backwards[0].boxes_xyxy, batch.boxes_xyxy[2])
    for beyond in (len(split), -len(split) - 1):
        with pytest.raises(IndexError, match=f"train has {len(split)} samples"):
            split[beyond]


def test_a_changed_sample_does_not_change_the_split(warehouse_path: str) -> None:
    split = open_warehouse(warehouse_path).split("train")
    before = split[0].image.copy()
    split[0].image[:] = 0
    np.testing.assert_array_equal(split[0].image, before)


@pytest.mark.parametrize("store", ["memory", "mmap", "stream"])
@pytest.mark.parametrize("workers", [None, "fork", "spawn"])
def test_a_split_is_the_dataset_of_a_torch_loader(
    warehouse_path: str, store: StoreName, workers: str | None
) -> None:
    split = open_warehouse(warehouse_path, config=StoreConfig(kind=store)).split("train")
    loader: DataLoader[Any] = DataLoader(
        split,  # type: ignore[arg-type]
        batch_size=3,
        num_workers=2 if workers else 0,
        multiprocessing_context=workers,
    )
    batches = list(loader)
    expected = split.gather(np.arange(len(split)))
    for found, wanted in zip(zip(*batches, strict=True), expected, strict=True):
        np.testing.assert_array_equal(torch.cat(found).numpy(), wanted)
    shapes = {name: getattr(batches[0], name).shape for name in batches[0]._fields}
    assert shapes == {"image": (3, 64, 64, 3), "boxes_xyxy": (3, 4, 4), "mask": (3, 4)}


def test_reading_a_warehouse_imports_no_torch(warehouse_path: str) -> None:
    code = f"""
import sys
from haustra.warehouse.dataset import open_warehouse
open_warehouse({warehouse_path!r}).split("train")[0]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_warehouse_and_its_splits_are_described_in_one_line(warehouse_path: str) -> None:
    warehouse = open_warehouse(warehouse_path)
    assert warehouse.path == warehouse_path
    assert repr(warehouse) == (
        f"<Warehouse {warehouse_path}: train 20, val 4, test 8 samples of 64x64, up to 4 boxes "
        "each>"
    )
    split = warehouse.split("val")
    assert repr(split) == (
        f"<Split val of {warehouse_path}: 4 samples of 64x64 with {split.num_boxes} boxes>"
    )


def test_the_path_of_a_warehouse_opened_by_its_folder_is_its_manifest(warehouse_path: str) -> None:
    assert open_warehouse(Path(warehouse_path).parent).path == warehouse_path


def test_an_unknown_split_is_named(warehouse_path: str) -> None:
    with pytest.raises(HaustraError) as caught:
        open_warehouse(warehouse_path).split("training")  # type: ignore[arg-type]
    assert str(caught.value) == "split='training': expected train, val, test"
