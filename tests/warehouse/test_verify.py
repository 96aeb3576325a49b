import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from haustra.core.digests import digest_file, seal_json
from haustra.core.errors import HaustraError
from haustra.warehouse.format import MANIFEST_SEAL
from haustra.warehouse.table import TABLE_SCHEMA, read_rows
from haustra.warehouse.verify import verify_warehouse
from scenes import write_warehouse

Tensors = dict[str, NDArray[Any]]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse whose tests copy it, by its manifest."""
    return write_warehouse(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def manifest(sound: Path, tmp_path: Path) -> Path:
    folder = tmp_path / sound.parent.name
    shutil.copytree(sound.parent, folder)
    return folder / sound.name


def read(manifest: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(manifest.read_text())
    return value


def first_shard(manifest: Path) -> str:
    file: str = read(manifest)["shards"][0]["file"]
    return file


def change_manifest(manifest: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = read(manifest)
    change(value)
    del value[MANIFEST_SEAL]
    manifest.write_text(json.dumps(seal_json(value, field=MANIFEST_SEAL)))


def lie_in_shard(manifest: Path, change: Callable[[Tensors], None]) -> None:
    """Change the first shard's tensors, and make its digest anew."""
    path = manifest.parent / first_shard(manifest)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    new = {"num_bytes": path.stat().st_size, "sha256": digest_file(path)}
    change_manifest(manifest, lambda value: value["shards"][0].update(new))


def lie_in_table(manifest: Path, change: Callable[[Rows], None]) -> None:
    """Change the table's rows, and make its digest anew."""
    path = manifest.parent / "samples.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLE_SCHEMA), path)
    change_manifest(manifest, lambda value: value["table"].update(sha256=digest_file(path)))


def problems(manifest: Path) -> list[str]:
    return list(verify_warehouse(manifest).problems)


def test_a_sound_warehouse_has_no_problem_and_is_counted(manifest: Path) -> None:
    found = verify_warehouse(manifest.parent)
    assert found.problems == ()
    assert (found.num_samples, found.num_groups) == (32, 8)
    assert found.num_boxes == sum(c["boxes"] for c in read(manifest)["splits"].values())
    assert found.num_shards == len(read(manifest)["shards"])


def test_a_folder_of_another_name_is_a_problem(manifest: Path) -> None:
    moved = manifest.parent.rename(manifest.parent.with_name("best")) / manifest.name
    version = read(moved)["version"]
    assert problems(moved) == [
        f"manifest.json: its version is {version}, but its folder is named 'best', expected "
        f"'v{version}'"
    ]


def test_every_damaged_file_is_named_not_the_first_alone(manifest: Path) -> None:
    files = [entry["file"] for entry in read(manifest)["shards"]]
    gone, cut, flipped = (manifest.parent / file for file in files[:3])
    gone.unlink()
    data = cut.read_bytes()
    cut.write_bytes(data[:-100])
    pixels = bytearray(flipped.read_bytes())
    pixels[2000] ^= 1
    flipped.write_bytes(pixels)
    table = manifest.parent / "samples.parquet"
    table.write_bytes(table.read_bytes()[::-1])
    changed = "does not have the SHA-256 that its manifest says: its bytes have changed"
    assert problems(manifest) == [
        f"samples.parquet {changed}",
        "samples.parquet: it is not a Parquet file; its rows are not compared",
        f"{files[0]} is gone, but its manifest lists it",
        f"{files[1]} has {len(data) - 100} bytes, but its manifest says {len(data)}",
        f"{files[1]}: it is not a safetensors file",
        f"{files[2]} {changed}",
    ]


def test_counts_of_frames_that_did_not_become_samples_are_compared(manifest: Path) -> None:
    def lie(value: dict[str, Any]) -> None:
        value["validation"]["total"].update(missing=1, empty_left_out=3)
        value["splits"]["val"]["empty_left_out"] = 2
        value["quarantined"].append(
            {"sample_id": "a/b", "file": "labels/b.json", "kind": "invalid", "reason": "it is bad"}
        )

    change_manifest(manifest, lie)
    assert problems(manifest) == [
        "manifest.json: validation.total.invalid is 0, but quarantined names 1",
        "manifest.json: validation.total.missing is 1, but quarantined names 0",
        "manifest.json: validation.total.empty_left_out is 3, but the splits have 2",
    ]


def test_a_table_that_is_gone_is_a_problem(manifest: Path) -> None:
    (manifest.parent / "samples.parquet").unlink()
    assert problems(manifest) == ["samples.parquet is gone, but its manifest lists it"]


def test_columns_that_are_missing_null_or_of_another_type_are_problems(manifest: Path) -> None:
    path = manifest.parent / "samples.parquet"
    table = pq.read_table(path).drop_columns(["row"])
    place = table.column_names.index("boxes_after")
    table = table.set_column(place, "boxes_after", table.column("boxes_after").cast(pa.string()))
    place = table.column_names.index("group_id")
    nulls = pa.array([None] * table.num_rows, pa.string())
    pq.write_table(table.set_column(place, "group_id", nulls), path)
    change_manifest(manifest, lambda value: value["table"].update(sha256=digest_file(path)))
    assert problems(manifest) == [
        "samples.parquet: column 'group_id' holds null; its rows are not compared",
        (
            "samples.parquet: column 'boxes_after' is string, expected int32; its rows are not "
            "compared"
        ),
        "samples.parquet: column 'row' is missing; its rows are not compared",
    ]


def test_a_row_that_is_gone_is_missed_by_the_shard_and_by_the_counts(manifest: Path) -> None:
    lie_in_table(manifest, lambda rows: rows.__delitem__(0))
    train = read(manifest)["splits"]["train"]
    assert problems(manifest) == [
        f"{first_shard(manifest)} row 0: no row of samples.parquet names it",
        (
            f"manifest.json: splits.train.samples is {train['samples']}, the table has "
            f"{train['samples'] - 1}"
        ),
        (
            f"manifest.json: splits.train.empty is {train['empty']}, the table has "
            f"{train['empty'] - 1}"
        ),
    ]


def test_a_row_that_is_there_twice_is_named(manifest: Path) -> None:
    def repeat(rows: Rows) -> None:
        rows[2] = rows[1]

    lie_in_table(manifest, repeat)
    shard = first_shard(manifest)
    found = problems(manifest)
    name = "samples.parquet row 2 (r000/frame_00001)"
    assert found[:3] == [
        f"{name}: row 1 has the same sample_id",
        f"{name}: row 1 of the table has the same place, {shard} row 1",
        f"{shard} row 2: no row of samples.parquet names it",
    ]


def test_places_that_no_shard_has_are_named(manifest: Path) -> None:
    def misplace(rows: Rows) -> None:
        rows[0]["row"] = 99
        rows[1]["shard"] = "shards/other.safetensors"

    lie_in_table(manifest, misplace)
    shard = first_shard(manifest)
    size = read(manifest)["shards"][0]["num_samples"]
    assert problems(manifest) == [
        f"samples.parquet row 0 (r000/frame_00000): {shard} has {size} rows, none is 99",
        (
            "samples.parquet row 1 (r000/frame_00001): shard 'shards/other.safetensors' is not in "
            "the manifest"
        ),
        f"{shard} row 0: no row of samples.parquet names it",
        f"{shard} row 1: no row of samples.parquet names it",
    ]
    with pytest.raises(HaustraError) as caught:
        read_rows(manifest)
    assert str(caught.value) == (
        f"{manifest.parent / 'samples.parquet'}: sample 'r000/frame_00000' is in {shard} row "
        "99, which the manifest does not have; `haustra warehouse verify` names all problems"
    )


def test_a_group_in_two_splits_is_named(manifest: Path) -> None:
    def cut_group(rows: Rows) -> None:
        last = next(row for row in reversed(rows) if row["split"] == "test")
        last["group_id"] = rows[0]["group_id"]

    lie_in_table(manifest, cut_group)
    group = pq.read_table(manifest.parent / "samples.parquet").to_pylist()[0]["group_id"]
    count, problem = problems(manifest)
    assert count == "manifest.json: splits.test.groups is 2, the table has 3"
    assert problem.startswith("samples.parquet row 31 (r00")
    assert problem.endswith(f"): group {group!r} is in test and in train")


def test_a_row_in_another_split_than_its_shard_is_named(manifest: Path) -> None:
    def move(rows: Rows) -> None:
        for row in rows:
            if row["group_id"] == rows[0]["group_id"]:
                row["split"] = "val"

    lie_in_table(manifest, move)
    found = problems(manifest)
    assert found[:4] == [
        f"samples.parquet row {i} (r000/frame_0000{i}): it is in val, but its shard is of train"
        for i in range(4)
    ]
    assert all(problem.startswith("manifest.json: splits.") for problem in found[4:])


def test_a_transform_that_the_source_size_does_not_give_is_named(manifest: Path) -> None:
    def shift(rows: Rows) -> None:
        rows[3]["offset_y"] = 7
        rows[4]["source_width"] = 0

    lie_in_table(manifest, shift)
    first, second = problems(manifest)
    assert first == (
        "samples.parquet row 3 (r000/frame_00003): scale and offset are (0.8, 0.796875, 0, 7), "
        "its source size gives (0.8, 0.796875, 0, 6)"
    )
    assert second.endswith("): source size 0x64")


def test_counts_of_the_manifest_that_the_table_does_not_give_are_named(manifest: Path) -> None:
    def inflate(value: dict[str, Any]) -> None:
        value["splits"]["val"]["groups"] += 1
        value["truncated_boxes"] = 5
        del value["splits"]["test"]

    groups = read(manifest)["splits"]["val"]["groups"]
    change_manifest(manifest, inflate)
    assert problems(manifest) == [
        f"manifest.json: splits.val.groups is {groups + 1}, the table has {groups}",
        "manifest.json: it has no counts of split 'test'",
        "manifest.json: truncated_boxes is 5, the table has 0",
    ]


def test_boxes_that_the_table_and_the_mask_count_differently_are_named(manifest: Path) -> None:
    def add_box(tensors: Tensors) -> None:
        tensors["boxes"][0, 0] = (0.1, 0.1, 0.2, 0.2)
        tensors["mask"][0, 0] = 1

    lie_in_shard(manifest, add_box)
    assert problems(manifest) == [
        f"{first_shard(manifest)} row 0 (r000/frame_00000): 1 boxes in the mask, 0 in the table"
    ]


@pytest.mark.parametrize(
    ("slot", "box", "text"),
    [
        (0, (np.nan, 0, 1, 1), "box 0 [nan, 0.0, 1.0, 1.0]: a value is not finite"),
        (0, (0, 0, 1.5, 1), "box 0 [0.0, 0.0, 1.5, 1.0]: it leaves 0..1"),
        (0, (0.5, 0, 0.25, 1), "box 0 [0.5, 0.0, 0.25, 1.0]: it is inverted"),
        (3, (0, 0, 0, 1), "box 3 [0.0, 0.0, 0.0, 1.0]: it is masked out but not zero"),
        (3, (np.nan, 0, 0, 0), "box 3 [nan, 0.0, 0.0, 0.0]: it is masked out but not zero"),
    ],
)
def test_a_box_that_no_detector_may_learn_is_named(
    manifest: Path, slot: int, box: tuple[float, ...], text: str
) -> None:
    lie_in_shard(manifest, lambda tensors: tensors["boxes"].__setitem__((1, slot), box))
    assert problems(manifest) == [f"{first_shard(manifest)} row 1 (r000/frame_00001): {text}"]


def test_a_mask_of_other_numbers_is_named(manifest: Path) -> None:
    lie_in_shard(manifest, lambda tensors: tensors["mask"].__setitem__((0, 2), 7))
    assert problems(manifest) == [
        f"{first_shard(manifest)} row 0 (r000/frame_00000): box 2 [0.0, 0.0, 0.0, 0.0]: the mask "
        "is neither 0 nor 1"
    ]


def test_tensors_of_another_shape_or_name_are_named(manifest: Path) -> None:
    size = read(manifest)["shards"][0]["num_samples"]
    lie_in_shard(manifest, lambda tensors: tensors.update(mask=tensors["mask"][:, :3].copy()))
    assert problems(manifest) == [
        f"{first_shard(manifest)}: tensor 'mask' is U8 [{size}, 3], the manifest gives U8 "
        f"[{size}, 4]"
    ]
    lie_in_shard(manifest, lambda tensors: tensors.pop("mask") is None)  # type: ignore[arg-type]
    assert problems(manifest) == [
        f"{first_shard(manifest)}: its tensors are ['boxes', 'images'], expected "
        "['boxes', 'images', 'mask']"
    ]


def test_a_shard_that_is_listed_twice_is_named(manifest: Path) -> None:
    change_manifest(manifest, lambda value: value["shards"].append(value["shards"][0]))
    assert problems(manifest) == [
        f"manifest.json: shard {first_shard(manifest)!r} is listed 2 times"
    ]
