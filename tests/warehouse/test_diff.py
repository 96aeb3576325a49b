import json
import shutil
from pathlib import Path

import pytest

from builders import write_frame, write_run
from haustra.core.errors import HaustraError
from haustra.warehouse.diff import diff_warehouses
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

BOX, OTHER_BOX = (2, 3, 12, 13), (2, 3, 12, 14)


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    root = tmp_path / "captures"
    for name in ("a", "b", "c"):
        write_run(root / f"run_{name}", [BOX], [BOX, (20, 4, 24, 8)], run_id=name)
    return root


def build(captures: Path, **changes: object) -> Path:
    settings = {
        "captures": captures,
        "output_root": captures.parent / "warehouse",
        "target_size": "64",
        "max_boxes": 2,
        "split_rule": "sha256:2",
    }
    return build_warehouse(ETLConfig(**(settings | changes))).manifest_path  # type: ignore[arg-type]


def test_a_warehouse_equals_its_copy_elsewhere(captures: Path, tmp_path: Path) -> None:
    manifest = build(captures)
    copy = tmp_path / "elsewhere" / manifest.parent.name
    shutil.copytree(manifest.parent, copy)
    found = diff_warehouses(manifest, copy)
    assert found.finds_nothing
    assert found.version_a == found.version_b
    assert found.num_same == found.num_a == found.num_b == 6


def test_every_kind_of_change_is_named(captures: Path) -> None:
    before = build(captures)
    write_frame(captures / "run_a", 0, boxes_px=[OTHER_BOX])
    write_frame(captures / "run_a", 1, boxes_px=[BOX, (20, 4, 24, 8)], seed=99)
    shutil.rmtree(captures / "run_b")
    write_run(captures / "run_d", [BOX], run_id="d")
    manifest_c = json.loads((captures / "run_c" / "run_manifest.json").read_text())
    manifest_c |= {"group_id": "one", "licence": "CC-BY-4.0"}
    (captures / "run_c" / "run_manifest.json").write_text(json.dumps(manifest_c))
    found = diff_warehouses(before, build(captures))
    assert not found.finds_nothing
    assert (found.num_a, found.num_b, found.num_same) == (6, 5, 0)
    assert found.added == ("d/frame_00000",)
    assert found.removed == ("b/frame_00000", "b/frame_00001")
    assert found.relabelled == ("a/frame_00000",)
    assert found.changed_pixels == ("a/frame_00001",)
    assert found.moved == (("c/frame_00000", "val", "train"), ("c/frame_00001", "val", "train"))
    assert found.regrouped == (("c/frame_00000", "c", "one"), ("c/frame_00001", "c", "one"))
    assert found.sources == ("c",)
    assert found.settings == {}


def test_another_size_is_a_setting_and_relabels_nothing(captures: Path) -> None:
    found = diff_warehouses(build(captures), build(captures, target_size="96x32"))
    assert found.settings == {"target_size_wh": ((64, 64), (96, 32))}
    assert (found.relabelled, found.changed_pixels, found.num_same) == ((), (), 6)


def test_stretching_is_a_setting_and_relabels_nothing(captures: Path) -> None:
    found = diff_warehouses(build(captures), build(captures, resize_mode="force"))
    assert found.settings == {"resize_mode": ("letterbox", "force")}
    assert found.relabelled == ()


def test_fewer_boxes_per_image_compare_the_boxes_that_both_keep(captures: Path) -> None:
    before = build(captures)
    assert diff_warehouses(before, build(captures, max_boxes=1)).relabelled == ()
    write_frame(captures / "run_a", 1, boxes_px=[OTHER_BOX, (20, 4, 24, 8)])
    found = diff_warehouses(before, build(captures, max_boxes=1))
    assert found.settings == {"max_boxes": (2, 1)}
    assert found.relabelled == ("a/frame_00001",)


def test_another_size_still_shows_a_box_that_moved_by_half_a_pixel(captures: Path) -> None:
    before = build(captures)
    write_frame(captures / "run_a", 0, boxes_px=[(2.5, 3, 12, 13)])
    found = diff_warehouses(before, build(captures, target_size="96"))
    assert found.relabelled == ("a/frame_00000",)


def test_another_way_of_splitting_is_a_setting(captures: Path) -> None:
    found = diff_warehouses(build(captures), build(captures, split_rule="sha256:1000"))
    assert found.settings == {"split_method": ("rule sha256:2", "rule sha256:1000")}
    assert {split for _, _, split in found.moved} == {"train"}


def test_a_damaged_warehouse_is_not_compared(captures: Path) -> None:
    manifest = build(captures)
    shard = next((manifest.parent / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"\2")
    with pytest.raises(HaustraError, match="does not have the SHA-256"):
        diff_warehouses(manifest, manifest)
