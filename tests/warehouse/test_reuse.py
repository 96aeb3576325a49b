"""An ETL takes finished shards from other versions and from interrupted ETLs, to the same bytes."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from builders import files_in
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.core.progress import Progress
from haustra.warehouse import etl
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import read_manifest
from haustra.warehouse.plan import WarehousePlan, plan_warehouse
from haustra.warehouse.reuse import staging_folder
from haustra.warehouse.shard_file import write_shard_file
from scenes import count_decodes, write_captures

FRAMES_PER_RUN = 4


def build(folder: Path, **changes: object) -> ETLResult:
    settings = {
        "captures": folder / "captures",
        "output_root": folder / "warehouse",
        "target_size": "64",
        "samples_per_shard": 3,
        "max_boxes": 4,
    }
    return build_warehouse(ETLConfig(**(settings | changes)))  # type: ignore[arg-type]


def assert_same_as_from_nothing(folder: Path, *, result: ETLResult, **changes: object) -> None:
    fresh = build(folder, **changes, output_root=folder / "fresh")
    assert fresh.reused_shards == 0
    assert fresh.built_shards == result.built_shards + result.reused_shards
    assert files_in(fresh.manifest_path.parent) == files_in(result.manifest_path.parent)


def change_a_pixel(captures: Path) -> None:
    path = captures / "run_001" / "images" / "frame_00001.png"
    image = read_image_rgb(path)
    image[0, 0, 0] ^= 1
    write_png(path, image_rgb=image)


def spoil(captures: Path) -> None:
    """Break frames in every way that the ETL counts."""
    (captures / "run_000" / "images" / "frame_00001.png").write_bytes(b"no image at all")
    (captures / "run_001" / "images" / "frame_00002.png").unlink()
    (captures / "run_002" / "labels" / "frame_00000.json").write_text("{")
    path = captures / "run_002" / "labels" / "frame_00003.json"
    label = json.loads(path.read_text())
    label["labels"][0]["bbox_px"] = [70, 3, 500, 9]
    label["labels"].append({"bbox_px": [9, 1, 2, 3]})
    path.write_text(json.dumps(label))
    path = captures / "run_003" / "labels" / "frame_00000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_present": False}))
    (captures / "run_003" / "images" / "frame_00099.png").write_bytes(b"")
    for frame in range(3):  # a shard of which nothing is left
        (captures / "run_004" / "images" / f"frame_{frame:05d}.png").write_bytes(b"cut")


def test_a_shard_holds_one_run_and_one_split_in_order(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    path = tmp_path / "captures" / "run_002" / "labels" / "frame_00001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"group_id": "another patient"}))
    result = build(tmp_path, split="0.4,0.3,0.3")
    rows = pq.read_table(result.manifest_path.parent / "samples.parquet").to_pylist()
    order = [
        (["train", "val", "test"].index(row["split"]), row["run_id"], row["frame"]) for row in rows
    ]
    assert order == sorted(order)
    by_shard: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    assert list(by_shard) == [entry.file for entry in result.manifest.shards]
    for entry in result.manifest.shards:
        members = by_shard[entry.file]
        assert {(row["run_id"], row["split"]) for row in members} == {
            (members[0]["run_id"], entry.split)
        }
        assert [row["row"] for row in members] == list(range(entry.num_samples))
        assert entry.num_samples <= 3
        assert entry.file == f"shards/{entry.content[:16]}.safetensors"


def test_a_run_added_to_fifty_decodes_only_its_own_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = tmp_path / "captures"
    write_captures(captures, num_runs=51, frames_per_run=FRAMES_PER_RUN, size_wh=(40, 32))
    (captures / "run_050").rename(tmp_path / "later")
    first = build(tmp_path)
    (tmp_path / "later").rename(captures / "run_050")
    decoded = count_decodes(monkeypatch)
    second = build(tmp_path)
    assert sorted(decoded) == [
        f"r050/images/frame_{index:05d}.png" for index in range(FRAMES_PER_RUN)
    ]
    assert (second.built_shards, second.reused_shards) == (2, len(first.manifest.shards))
    assert set(first.manifest.shards) < set(second.manifest.shards)
    assert_same_as_from_nothing(tmp_path, result=second)


def test_one_changed_pixel_makes_one_shard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    first = build(tmp_path)
    change_a_pixel(tmp_path / "captures")
    decoded = count_decodes(monkeypatch)
    second = build(tmp_path)
    assert second.manifest.version != first.manifest.version
    assert (second.built_shards, second.reused_shards) == (1, len(first.manifest.shards) - 1)
    assert len(decoded) == 3
    assert_same_as_from_nothing(tmp_path, result=second)


def test_a_moved_capture_folder_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    first = build(tmp_path)
    before = files_in(tmp_path / "warehouse")
    (tmp_path / "captures").rename(tmp_path / "moved")
    decoded = count_decodes(monkeypatch)
    second = build(tmp_path, captures=tmp_path / "moved")
    assert not second.built
    assert second.manifest == first.manifest
    assert decoded == []
    assert files_in(tmp_path / "warehouse") == before


def test_reuse_counts_and_names_the_same_problems_as_a_full_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    spoil(tmp_path / "captures")
    limits: dict[str, object] = {"max_invalid": "1.0", "max_missing": "1.0"}
    first = build(tmp_path, **limits)
    path = tmp_path / "captures" / "run_000" / "run_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"licence": "CC BY 4.0"}))
    decoded = count_decodes(monkeypatch)
    second = build(tmp_path, **limits)
    assert second.manifest.version != first.manifest.version
    assert (second.built_shards, second.reused_shards) == (0, len(first.manifest.shards))
    broken = ["r000/images/frame_00001.png"]
    broken += [f"r004/images/frame_{index:05d}.png" for index in range(3)]
    assert sorted(decoded) == broken  # to name what is wrong with them
    assert second.manifest.validation == first.manifest.validation
    assert second.manifest.quarantined == first.manifest.quarantined
    assert len(second.manifest.quarantined) == 6
    assert len(second.manifest.validation.problems) == 2
    assert_same_as_from_nothing(tmp_path, result=second, **limits)


@pytest.mark.parametrize("changes", [{"split": "0.3,0.2,0.5"}, {"split_rule": "sha256:2"}])
def test_groups_that_change_their_split_need_no_new_shards(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    write_captures(tmp_path / "captures")
    first = build(tmp_path)
    second = build(tmp_path, **changes)
    assert second.manifest.splits != first.manifest.splits
    assert (second.built_shards, second.reused_shards) == (0, len(first.manifest.shards))
    assert_same_as_from_nothing(tmp_path, result=second, **changes)


def test_another_transform_reuses_nothing(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    build(tmp_path)
    for changes in ({"target_size": "32"}, {"resize_mode": "force"}, {"max_boxes": 3}):
        assert build(tmp_path, **changes).reused_shards == 0


def test_reused_shards_share_their_bytes_on_disk(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    first = build(tmp_path)
    change_a_pixel(tmp_path / "captures")
    second = build(tmp_path)
    shared = set(first.manifest.shards) & set(second.manifest.shards)
    assert shared
    for entry in shared:
        old, new = (r.manifest_path.parent / entry.file for r in (first, second))
        assert old.samefile(new)


def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    write_captures(tmp_path / "captures")
    build(tmp_path)
    change_a_pixel(tmp_path / "captures")
    monkeypatch.setattr(os, "link", refuse)
    second = build(tmp_path)
    assert second.built_shards == 1
    assert_same_as_from_nothing(tmp_path, result=second)


@pytest.mark.parametrize("file", ["shard", "table", "manifest"])
def test_what_is_damaged_in_another_version_is_not_taken(tmp_path: Path, file: str) -> None:
    write_captures(tmp_path / "captures")
    first = build(tmp_path)
    change_a_pixel(tmp_path / "captures")
    folder = first.manifest_path.parent
    fresh = build(tmp_path, output_root=tmp_path / "fresh")
    shared = set(first.manifest.shards) & set(fresh.manifest.shards)
    shard = folder / min(entry.file for entry in shared)
    path = {
        "shard": shard,
        "table": folder / "samples.parquet",
        "manifest": first.manifest_path,
    }[file]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 128
    path.write_bytes(data)
    second = build(tmp_path)
    assert second.built_shards == (2 if file == "shard" else len(second.manifest.shards))
    assert files_in(second.manifest_path.parent) == files_in(fresh.manifest_path.parent)


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, *, num_shards: int, error: BaseException
) -> None:
    """Let the ETL fail as it begins to write the shard after this many."""
    left = [num_shards]

    def failing(path: Path, **arrays: Any) -> tuple[int, str]:
        if not left[0]:
            raise error
        left[0] -= 1
        return write_shard_file(path, **arrays)

    monkeypatch.setattr(etl, "write_shard_file", failing)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("a bug")]
)
def test_an_interrupted_etl_continues(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    write_captures(tmp_path / "captures")
    with monkeypatch.context() as patch:
        interrupt_after(patch, num_shards=4, error=error)
        with pytest.raises(type(error)):
            build(tmp_path)
    assert [path.name for path in (tmp_path / "warehouse").iterdir()] == [".staging"]
    decoded = count_decodes(monkeypatch)
    result = build(tmp_path)
    assert result.reused_shards == 4
    assert len(decoded) == 24 - sum(entry.num_samples for entry in result.manifest.shards[:4])
    assert list((tmp_path / "warehouse").iterdir()) == [result.manifest_path.parent]
    assert_same_as_from_nothing(tmp_path, result=result)


def test_what_an_interrupted_etl_left_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    with monkeypatch.context() as patch:
        interrupt_after(patch, num_shards=4, error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    staging = tmp_path / "warehouse" / ".staging"
    shards = sorted(staging.glob("*/version/shards/*"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"?")
    shards[1].unlink()
    record = next(staging.glob(f"*/finished/{shards[2].stem}*.json"))
    record.write_text("{")
    result = build(tmp_path)
    assert result.reused_shards == 1
    assert_same_as_from_nothing(tmp_path, result=result)


def other_size(record: dict[str, Any], _: dict[str, Any]) -> None:
    record["sizes_wh"][next(iter(record["sizes_wh"]))][0] += 1


def other_count(record: dict[str, Any], _: dict[str, Any]) -> None:
    record["entry"]["num_samples"] += 1


def other_content(record: dict[str, Any], _: dict[str, Any]) -> None:
    record["entry"]["content"] = "0" * 64


def other_file(record: dict[str, Any], other: dict[str, Any]) -> None:
    record["entry"].update({name: other["entry"][name] for name in ("file", "num_bytes", "sha256")})


def whole_other_record(record: dict[str, Any], other: dict[str, Any]) -> None:
    record.update(other)


@pytest.mark.parametrize(
    "edit", [other_size, other_count, other_content, other_file, whole_other_record]
)
def test_a_changed_record_of_an_interrupted_etl_is_not_believed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    write_captures(tmp_path / "captures")
    with monkeypatch.context() as patch:
        interrupt_after(patch, num_shards=3, error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    first, other, _ = sorted((tmp_path / "warehouse").glob(".staging/*/finished/*.json"))
    record = json.loads(first.read_text())
    edit(record, json.loads(other.read_text()))
    first.write_text(json.dumps(record))
    result = build(tmp_path)
    assert result.reused_shards == 2
    assert_same_as_from_nothing(tmp_path, result=result)


def test_an_etl_that_finished_no_shard_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captures(tmp_path / "captures")
    interrupt_after(monkeypatch, num_shards=0, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert list((tmp_path / "warehouse").iterdir()) == []


def test_a_passed_threshold_does_not_cost_the_work(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    spoil(tmp_path / "captures")
    with pytest.raises(HaustraError, match="more than max_invalid"):
        build(tmp_path)
    result = build(tmp_path, max_invalid="1.0", max_missing="1.0")
    assert result.built_shards == 0
    assert_same_as_from_nothing(tmp_path, result=result, max_invalid="1.0", max_missing="1.0")


def test_an_image_that_changes_during_the_etl_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = tmp_path / "captures"
    write_captures(captures)

    def plan_then_change(config: ETLConfig, *, progress: Progress) -> WarehousePlan:
        planned = plan_warehouse(config, progress=progress)
        change_a_pixel(captures)
        return planned

    monkeypatch.setattr(etl, "plan_warehouse", plan_then_change)
    with pytest.raises(HaustraError) as caught:
        build(tmp_path)
    assert str(caught.value) == (
        "r001/frame_00001: its image changed while the ETL read it; expected captures that stay "
        "as they are; run `haustra etl` again, which continues"
    )


def build_and_die(folder: Path) -> None:
    patch = pytest.MonkeyPatch()
    left = [3]

    def dying(path: Path, **arrays: Any) -> tuple[int, str]:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return write_shard_file(path, **arrays)

    patch.setattr(etl, "write_shard_file", dying)
    build(folder)


def test_a_killed_etl_continues(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    process = multiprocessing.get_context("spawn").Process(target=build_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    result = build(tmp_path)
    assert result.reused_shards == 3
    assert list((tmp_path / "warehouse").iterdir()) == [result.manifest_path.parent]
    assert_same_as_from_nothing(tmp_path, result=result)


def build_at_once(folder: Path, captures: str, barrier: Barrier) -> None:
    barrier.wait()
    build(folder, captures=folder / captures)


@pytest.mark.parametrize("same", [True, False])
def test_two_etls_at_once_on_one_output_root_do_not_harm_each_other(
    tmp_path: Path, *, same: bool
) -> None:
    write_captures(tmp_path / "captures", num_runs=12)
    shutil.copytree(tmp_path / "captures", tmp_path / "others")
    if not same:
        change_a_pixel(tmp_path / "others")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=build_at_once, args=(tmp_path, name, barrier))
        for name in ("captures", "others")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for name in ("captures", "others"):
        result = build(tmp_path, captures=tmp_path / name)
        assert not result.built
        fresh = build(tmp_path, captures=tmp_path / name, output_root=tmp_path / "fresh")
        assert files_in(fresh.manifest_path.parent) == files_in(result.manifest_path.parent)
    names = [path.name for path in (tmp_path / "warehouse").iterdir()]
    assert all(name.startswith("v") for name in names)
    assert len(names) == (1 if same else 2)


def test_what_a_running_etl_holds_stays_and_the_rest_goes(tmp_path: Path) -> None:
    root = tmp_path / ".staging"
    for name in ("empty", "half_removed/version", "abandoned/version"):
        (root / name).mkdir(parents=True)
    (root / "abandoned" / ".lock").touch()
    with staging_folder(tmp_path) as running:
        with staging_folder(tmp_path) as other:
            assert other != running
        assert list(root.iterdir()) == [running]
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_has_the_size_of_each_shard(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    assert read_manifest(build(tmp_path).manifest_path).samples_per_shard == 3
