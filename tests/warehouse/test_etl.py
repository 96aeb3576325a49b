import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from haustra.captures.reader import read_runs
from haustra.captures.validation import CheckedFrame, check_frame, keeps_negative
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.core.letterbox import plan_letterbox
from haustra.warehouse.audit import audit_warehouse
from haustra.warehouse.dataset import open_split
from haustra.warehouse.diff import diff_warehouses
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig, parse_target_size, parse_threshold
from haustra.warehouse.explain import explain_sample
from haustra.warehouse.format import check_warehouse, read_manifest
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.shard_stores import StoreConfig
from haustra.warehouse.summary import export_summary
from haustra.warehouse.verify import verify_warehouse
from scenes import count_decodes, write_captures


def config_for(folder: Path, **changes: object) -> ETLConfig:
    settings = {
        "captures": folder / "captures",
        "output_root": folder / "warehouse",
        "target_size": "64",
        "split": "0.5,0.25,0.25",
        "samples_per_shard": 5,
        "max_boxes": 4,
    }
    return ETLConfig(**(settings | changes))  # type: ignore[arg-type]


def test_every_usable_frame_is_stored_once_with_its_letterboxed_pixels(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    result = build_warehouse(config_for(tmp_path))
    folder = result.manifest_path.parent
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    frames = {f.sample_id: f for run in read_runs(tmp_path / "captures") for f in run.frames}
    assert sorted(row["sample_id"] for row in rows) == sorted(frames)
    for row in rows:
        shard = load_file(folder / row["shard"])
        checked = check_frame(frames[row["sample_id"]])
        assert isinstance(checked, CheckedFrame)
        letterbox = plan_letterbox((80, 64), target_size_wh=(64, 64))
        np.testing.assert_array_equal(
            shard["images"][row["row"]], letterbox.apply(checked.image_rgb)
        )
        stored = shard["boxes"][row["row"]][shard["mask"][row["row"]].astype(bool)]
        back = letterbox.boxes_to_source(stored)
        expected = checked.boxes_px
        largest_first = np.argsort(
            -np.prod(expected[:, 2:] - expected[:, :2], axis=1), kind="stable"
        )
        np.testing.assert_allclose(back, expected[largest_first], atol=1e-4)


def test_no_group_is_cut_and_no_shard_mixes_splits(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", num_runs=9)
    result = build_warehouse(config_for(tmp_path))
    rows = pq.read_table(result.manifest_path.parent / "samples.parquet").to_pylist()
    split_of_group: dict[str, set[str]] = {}
    split_of_shard: dict[str, set[str]] = {}
    for row in rows:
        split_of_group.setdefault(row["group_id"], set()).add(row["split"])
        split_of_shard.setdefault(row["shard"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in split_of_group.values())
    assert all(len(splits) == 1 for splits in split_of_shard.values())
    assert {split for splits in split_of_group.values() for split in splits} == {
        "train",
        "val",
        "test",
    }


def test_a_second_run_on_the_same_input_does_nothing(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    first = build_warehouse(config_for(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = build_warehouse(config_for(tmp_path))
    assert first.built
    assert not second.built
    assert second.manifest_path == first.manifest_path
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_moved_capture_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    first = build_warehouse(config_for(tmp_path))
    shutil.move(tmp_path / "captures", tmp_path / "elsewhere")
    other = config_for(tmp_path, captures=tmp_path / "elsewhere", output_root=tmp_path / "other")
    second = build_warehouse(other)
    assert second.manifest.version == first.manifest.version
    assert second.manifest_path.read_bytes() == first.manifest_path.read_bytes()


def test_a_changed_pixel_label_split_or_setting_gives_a_new_version(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    versions = [build_warehouse(config_for(tmp_path)).manifest.version]
    image_path = folders[0] / "images" / "frame_00001.png"
    image = read_image_rgb(image_path)
    image[3, 3, 0] ^= 1
    write_png(image_path, image_rgb=image)
    versions.append(build_warehouse(config_for(tmp_path)).manifest.version)
    label_path = folders[0] / "labels" / "frame_00001.json"
    label = json.loads(label_path.read_text())
    label["labels"][0]["bbox_px"][2] += 1
    label_path.write_text(json.dumps(label))
    versions.append(build_warehouse(config_for(tmp_path)).manifest.version)
    for changes in ({"split": "0.8,0.1,0.1"}, {"max_boxes": 3}, {"resize_mode": "force"}):
        versions.append(build_warehouse(config_for(tmp_path, **changes)).manifest.version)
    assert len(set(versions)) == len(versions)


def test_a_damaged_warehouse_is_built_again(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    first = build_warehouse(config_for(tmp_path))
    shard = first.manifest_path.parent / first.manifest.shards[1].file
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    second = build_warehouse(config_for(tmp_path))
    assert second.built
    assert second.manifest == first.manifest
    assert shard.read_bytes() == whole
    assert "built again, since it was damaged" in second.notes[-1]


def test_every_file_may_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    folder = build_warehouse(config_for(tmp_path)).manifest_path.parent
    (tmp_path / "any").touch()
    usual = (tmp_path / "any").stat().st_mode
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {usual}


def test_another_licence_gives_a_new_version(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    first = build_warehouse(config_for(tmp_path))
    path = folders[0] / "run_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"licence": "CC BY 4.0"}))
    second = build_warehouse(config_for(tmp_path))
    assert second.manifest.version != first.manifest.version
    assert second.manifest.sources[0].licence == "CC BY 4.0"


def test_of_too_many_boxes_the_largest_stay_and_the_rest_are_counted(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", max_polyps=6)
    result = build_warehouse(config_for(tmp_path, max_boxes=2))
    rows = pq.read_table(result.manifest_path.parent / "samples.parquet").to_pylist()
    left_out = sum(row["boxes_before"] - row["boxes_after"] for row in rows)
    assert result.manifest.truncated_boxes == left_out > 0
    assert max(row["boxes_after"] for row in rows) == 2
    split = open_split(result.manifest_path, split="train")
    boxes = split.gather(np.arange(len(split))).boxes_xyxy
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    assert (np.diff(areas, axis=1) <= 1e-6).all()


def test_the_summary_counts_and_names_every_problem(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    (folders[0] / "images" / "frame_00001.png").write_bytes(b"no image at all")
    (folders[1] / "images" / "frame_00002.png").unlink()
    label_path = folders[2] / "labels" / "frame_00003.json"
    label = json.loads(label_path.read_text())
    label["labels"][0]["bbox_px"] = [float("nan"), 1, 2, 3]
    label_path.write_text(json.dumps(label))
    (folders[3] / "images" / "frame_00099.png").write_bytes(b"")
    (folders[4] / "labels" / "frame_00000.json").write_text("{")
    manifest = build_warehouse(config_for(tmp_path)).manifest
    validation = manifest.validation
    assert validation.total["invalid"] == 2
    assert validation.total["missing"] == 1
    assert validation.total["rejected_boxes"] == 1
    assert validation.total["unlabelled_images"] == 1
    assert validation.runs["r000"]["invalid"] == 1
    assert validation.problems == [
        "r002/frame_00003: label 0: box [nan, 1, 2, 3] has a value that is not finite",
        "r003/images/frame_00099.png has no label file",
    ]
    assert [frame.model_dump() for frame in manifest.quarantined] == [
        {
            "sample_id": "r000/frame_00001",
            "file": "images/frame_00001.png",
            "kind": "invalid",
            "reason": "r000/images/frame_00001.png is not an image (PNG, JPEG, BMP, TIFF or WebP)",
        },
        {
            "sample_id": "r001/frame_00002",
            "file": "images/frame_00002.png",
            "kind": "missing",
            "reason": "r001/images/frame_00002.png does not exist",
        },
        {
            "sample_id": "r004/frame_00000",
            "file": "labels/frame_00000.json",
            "kind": "invalid",
            "reason": (
                "r004/labels/frame_00000.json is not JSON (line 1: Expecting property name "
                "enclosed in double quotes); expected a frame label"
            ),
        },
    ]


def write_with_negatives(root: Path) -> list[str]:
    """Write six runs of eight frames of which four have no box; return their sample ids."""
    for folder in write_captures(root, frames_per_run=8):
        for index in (1, 2, 3):
            path = folder / "labels" / f"frame_{index:05d}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": []}))
    return [f"r{run:03d}/frame_{index:05d}" for run in range(6) for index in range(4)]


def samples_in(result: ETLResult) -> set[str]:
    table = pq.read_table(result.manifest_path.parent / "samples.parquet")
    return set(table["sample_id"].to_pylist())


def test_a_share_of_the_negatives_stays_and_the_rest_is_counted_by_split(tmp_path: Path) -> None:
    negatives = write_with_negatives(tmp_path / "captures")
    everything = build_warehouse(config_for(tmp_path))
    assert samples_in(everything) > set(negatives)
    result = build_warehouse(config_for(tmp_path, empty_ratio=0.5))
    left_out = samples_in(everything) - samples_in(result)
    assert left_out == {name for name in negatives if not keeps_negative(name, ratio=0.5)}
    assert 0 < len(left_out) < len(negatives)
    manifest = result.manifest
    assert manifest.empty_ratio == 0.5
    assert manifest.version != everything.manifest.version
    assert manifest.validation.total["empty_left_out"] == len(left_out)
    assert manifest.validation.total["frames"] == 48
    assert manifest.validation.total["usable"] == 48 - len(left_out)
    for run, counts in manifest.validation.runs.items():
        assert counts["empty_left_out"] == sum(name.startswith(run) for name in left_out)
    for split, counts_of_split in manifest.splits.items():
        before = everything.manifest.splits[split]
        assert counts_of_split.samples == before.samples - counts_of_split.empty_left_out
        assert counts_of_split.empty == before.empty - counts_of_split.empty_left_out
        assert (counts_of_split.boxes, before.empty_left_out) == (before.boxes, 0)


def test_which_negatives_stay_does_not_change_when_data_are_added(tmp_path: Path) -> None:
    write_with_negatives(tmp_path / "captures")
    (tmp_path / "captures" / "run_005").rename(tmp_path / "later")
    before = samples_in(build_warehouse(config_for(tmp_path, empty_ratio=0.5)))
    (tmp_path / "later").rename(tmp_path / "captures" / "run_005")
    after = samples_in(build_warehouse(config_for(tmp_path, empty_ratio=0.5)))
    assert before == {name for name in after if not name.startswith("r005")}


def test_the_images_of_negatives_that_are_left_out_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    negatives = write_with_negatives(tmp_path / "captures")
    decoded = count_decodes(monkeypatch)
    result = build_warehouse(config_for(tmp_path, empty_ratio=0))
    assert len(decoded) == 48 - len(negatives)
    assert sum(counts.empty for counts in result.manifest.splits.values()) == 0


def test_a_frame_whose_boxes_are_all_rejected_is_not_left_out(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    path = folders[0] / "labels" / "frame_00000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": [{"bbox_px": [1]}]}))
    result = build_warehouse(config_for(tmp_path, empty_ratio=0))
    assert "r000/frame_00000" in samples_in(result)
    assert result.manifest.validation.total["empty"] == 1


def test_frames_that_are_left_out_do_not_count_in_the_thresholds(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    for folder in folders[:2]:
        (folder / "images" / "frame_00001.png").unlink()
    config = config_for(tmp_path, empty_ratio=0, max_missing="0.1")
    with pytest.raises(HaustraError) as caught:
        build_warehouse(config)
    assert str(caught.value) == (
        "2 of 18 frames are missing, more than max_missing='0.1'; run `haustra prune`, repair the "
        "captures, or raise the limit"
    )


def test_leaving_out_every_frame_is_an_error(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", frames_per_run=1)
    with pytest.raises(HaustraError) as caught:
        build_warehouse(config_for(tmp_path, empty_ratio=0))
    assert str(caught.value) == (
        f"empty_ratio=0.0 leaves out all 6 frames of {tmp_path / 'captures'}, which have no box; "
        "expected a larger share, such as 1"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_invalid": "0"},
            (
                "1 of 24 frames are invalid, more than max_invalid='0'; run `haustra prune`, "
                "repair the captures, or raise the limit"
            ),
        ),
        (
            {"max_missing": "1%"},
            (
                "1 of 24 frames are missing, more than max_missing='1%'; run `haustra prune`, "
                "repair the captures, or raise the limit"
            ),
        ),
        (
            {"max_empty": "0.2"},
            (
                "6 of 22 usable frames are empty, more than max_empty='0.2'; run `haustra prune`, "
                "repair the captures, or raise the limit"
            ),
        ),
    ],
)
def test_a_passed_threshold_fails_and_leaves_no_version(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    folders = write_captures(tmp_path / "captures")
    (folders[0] / "images" / "frame_00001.png").write_bytes(b"no image at all")
    (folders[1] / "images" / "frame_00002.png").unlink()
    with pytest.raises(HaustraError) as caught:
        build_warehouse(config_for(tmp_path, **changes))
    assert str(caught.value) == message
    assert [path.name for path in (tmp_path / "warehouse").iterdir()] == [".staging"]


def test_thresholds_also_fail_a_warehouse_that_stands_already(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures")
    (folders[0] / "images" / "frame_00001.png").write_bytes(b"no image at all")
    build_warehouse(config_for(tmp_path))
    with pytest.raises(HaustraError, match="more than max_invalid='0'"):
        build_warehouse(config_for(tmp_path, max_invalid="0"))


def test_captures_without_any_usable_frame_are_an_error(tmp_path: Path) -> None:
    folders = write_captures(tmp_path / "captures", num_runs=1, frames_per_run=1)
    (folders[0] / "images" / "frame_00000.png").unlink()
    with pytest.raises(HaustraError) as caught:
        build_warehouse(config_for(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / 'captures'}: none of 1 frames is usable; the first problem: "
        "r000/images/frame_00000.png does not exist"
    )


@pytest.mark.parametrize("text", ["0", "-64", "100", "64x", "abc", "64x0"])
def test_a_wrong_target_size_is_named(text: str) -> None:
    with pytest.raises(HaustraError) as caught:
        parse_target_size(text)
    assert str(caught.value) == (
        f"target_size={text!r}: expected a positive multiple of 32, such as 384, or WIDTHxHEIGHT"
    )


def test_target_sizes_may_be_square_or_not() -> None:
    assert parse_target_size("384") == (384, 384)
    assert parse_target_size("640x480") == (640, 480)


def test_thresholds_are_counts_or_shares() -> None:
    assert parse_threshold("20", name="max_empty") == (20.0, False)
    assert parse_threshold("0.25", name="max_empty") == (0.25, True)
    assert parse_threshold("10%", name="max_empty") == (0.1, True)
    with pytest.raises(HaustraError) as caught:
        parse_threshold("-1", name="max_empty")
    assert str(caught.value) == (
        "max_empty='-1': expected a count such as 20, or a share from 0 to 1 such as 0.1 or 10%"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_boxes": 0}, "max_boxes=0: expected a whole number of at least 1"),
        ({"samples_per_shard": 0}, "samples_per_shard=0: expected a whole number of at least 1"),
        ({"empty_ratio": 1.5}, "empty_ratio=1.5: expected a number from 0 to 1"),
        ({"jobs": -1}, "jobs=-1: expected a whole number of at least 1"),
        (
            {"split_rule": "md5:5"},
            "split_rule='md5:5': expected sha256:N with N of at least 2, such as sha256:5",
        ),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        config_for(tmp_path, **changes)
    assert str(caught.value) == message


def test_settings_and_functions_take_paths_as_text(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures")
    config = ETLConfig(
        captures=f"{tmp_path}/captures",  # type: ignore[arg-type]
        output_root=f"{tmp_path}/warehouse",  # type: ignore[arg-type]
        target_size="64",
        split="0.5,0.25,0.25",
    )
    result = build_warehouse(config)
    manifest = str(result.manifest_path)
    assert read_manifest(manifest) == check_warehouse(manifest) == result.manifest
    assert verify_warehouse(manifest).problems == ()
    assert diff_warehouses(manifest, manifest).finds_nothing
    assert audit_warehouse(manifest).num_images == 24
    assert not repair_warehouse(manifest, captures=f"{tmp_path}/captures").built
    assert export_summary(manifest, out=f"{tmp_path}/summary.csv").num_samples == 24
    assert explain_sample(manifest, sample_id="r000/frame_00000").run_id == "r000"
    streamed = StoreConfig(kind="stream", cache_dir=f"{tmp_path}/cache")  # type: ignore[arg-type]
    assert streamed.cache_dir == tmp_path / "cache"
    assert len(open_split(manifest, split="train", config=streamed)[0].image) == 64
