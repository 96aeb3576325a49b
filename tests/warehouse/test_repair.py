import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import files_in
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.warehouse import index
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.table import TABLE_SCHEMA
from scenes import count_decodes, write_captures


def build(folder: Path, **changes: object) -> ETLResult:
    settings = {
        "captures": folder / "captures",
        "output_root": folder / "warehouse",
        "target_size": "64x96",
        "split": "0.5,0.25,0.25",
        "samples_per_shard": 3,
        "max_boxes": 4,
    }
    return build_warehouse(ETLConfig(**(settings | changes)))  # type: ignore[arg-type]


def shard_path(result: ETLResult, index: int) -> Path:
    return result.manifest_path.parent / result.manifest.shards[index].file


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_nothing_is_done_where_nothing_is_broken(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    repaired = repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert not repaired.built
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_broken_and_missing_shards_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path)
    whole = files_in(result.manifest_path.parent)
    flip_a_bit(shard_path(result, 0))
    shard_path(result, 3).unlink()
    (tmp_path / "captures").rename(tmp_path / "moved")
    decoded = count_decodes(monkeypatch)
    repaired = repair_warehouse(result.manifest_path.parent, captures=tmp_path / "moved")
    assert (repaired.built, repaired.built_shards) == (True, 2)
    assert repaired.reused_shards == len(result.manifest.shards) - 2
    assert len(decoded) == sum(result.manifest.shards[i].num_samples for i in (0, 3))
    assert files_in(tmp_path / "warehouse") == {
        f"{result.manifest_path.parent.name}/{name}": data for name, data in whole.items()
    }
    assert repaired.notes == (
        f"{shard_path(result, 0)} does not have the SHA-256 that its manifest says: its bytes "
        "have changed; run `haustra etl` again, which rebuilds a damaged warehouse",
    )


@pytest.mark.parametrize(
    "changes", [{}, {"split_rule": "sha256:2"}, {"split": "0.7,0.2,0.1"}, {"empty_ratio": 0.5}]
)
def test_a_broken_table_is_made_again(tmp_path: Path, changes: dict[str, object]) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path, **changes)
    whole = files_in(result.manifest_path.parent)
    flip_a_bit(result.manifest_path.parent / "samples.parquet")
    repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert files_in(result.manifest_path.parent) == whole


def test_a_warehouse_in_a_folder_of_another_name_is_repaired_there(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path)
    folder = result.manifest_path.parent.rename(tmp_path / "mine")
    whole = files_in(folder)
    flip_a_bit(folder / result.manifest.shards[1].file)
    repaired = repair_warehouse(folder, captures=tmp_path / "captures")
    assert repaired.manifest_path == folder / "manifest.json"
    assert repaired.built_shards == 1
    assert files_in(folder) == whole


def split_file(folder: Path) -> Path:
    path = folder / "splits.json"
    names = [f"colon_{run:03d}" for run in range(6)]
    path.write_text(json.dumps({"train": names[:3], "val": names[3:4], "test": names[4:]}))
    return path


def test_a_warehouse_split_by_a_file_is_repaired_without_that_file(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path, split_file=split_file(tmp_path))
    whole = files_in(result.manifest_path.parent)
    split_file(tmp_path).unlink()
    flip_a_bit(shard_path(result, 2))
    repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert files_in(result.manifest_path.parent) == whole


def test_a_broken_table_of_a_warehouse_split_by_a_file_needs_that_file(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path, split_file=split_file(tmp_path))
    table = result.manifest_path.parent / "samples.parquet"
    flip_a_bit(table)
    with pytest.raises(HaustraError) as caught:
        repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert str(caught.value) == (
        f"{table} does not have the SHA-256 that its manifest says: its bytes have changed; the "
        "split of each group is stored only there and in the split file; run `haustra etl` with "
        "the same split_file, which makes only what is broken"
    )


def change_a_pixel(captures: Path) -> None:
    path = captures / "run_005" / "images" / "frame_00001.png"
    image = read_image_rgb(path)
    image[0, 0, 0] ^= 1
    write_png(path, image_rgb=image)


def add_a_run(captures: Path) -> None:
    write_captures(captures.parent / "more", num_runs=7)
    (captures.parent / "more" / "run_006").rename(captures / "run_006")


@pytest.mark.parametrize("change", [change_a_pixel, add_a_run])
@pytest.mark.parametrize("by_file", [False, True])
def test_captures_that_give_other_content_are_refused(
    tmp_path: Path, change: Callable[[Path], None], *, by_file: bool
) -> None:
    captures = tmp_path / "captures"
    write_captures(captures)
    result = build(tmp_path, **({"split_file": split_file(tmp_path)} if by_file else {}))
    flip_a_bit(shard_path(result, 0))
    change(captures)
    before = files_in(tmp_path / "warehouse")
    with pytest.raises(HaustraError) as caught:
        repair_warehouse(result.manifest_path, captures=captures)
    assert str(caught.value) == (
        f"{captures} no longer gives the content of {result.manifest_path} (version "
        f"{result.manifest.version}); expected the captures that it was built from; build a new "
        "version with `haustra etl`"
    )
    assert files_in(tmp_path / "warehouse") == before


def test_other_bytes_from_the_same_captures_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path)
    flip_a_bit(shard_path(result, 0))
    before = files_in(result.manifest_path.parent)
    with monkeypatch.context() as patch:
        patch.setattr("haustra.core.letterbox.PAD_VALUE", 0)
        with pytest.raises(HaustraError) as caught:
            repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert str(caught.value) == (
        f"{result.manifest.shards[0].file}: the same captures gave other bytes, so another image "
        "library made this warehouse; expected the one it was built with; move its folder away "
        "and run `haustra etl`"
    )
    assert files_in(result.manifest_path.parent) == before
    repaired = repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert repaired.built_shards == 1


def test_another_table_from_the_same_captures_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    result = build(tmp_path)
    flip_a_bit(shard_path(result, 0))
    before = files_in(result.manifest_path.parent)
    schema = TABLE_SCHEMA.with_metadata({"made_by": "another"})
    monkeypatch.setattr(index, "TABLE_SCHEMA", schema)
    with pytest.raises(HaustraError) as caught:
        repair_warehouse(result.manifest_path, captures=tmp_path / "captures")
    assert str(caught.value) == (
        f"{result.manifest_path}: the same captures gave another table, so another version of "
        "haustra or pyarrow made this warehouse; expected the one it was built with; move its "
        "folder away and run `haustra etl`"
    )
    assert files_in(result.manifest_path.parent) == before
