"""`haustra etl --group-by similar`: groups with images that look alike are merged, never cut."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import files_in, write_json
from haustra.captures.importers.dataset import ImportConfig
from haustra.captures.importers.paired import import_yolo
from haustra.core.errors import HaustraError
from haustra.core.images import encode_jpeg
from haustra.warehouse.etl import ETLResult
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.explain import explain_sample
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.table import StoredSamples
from scenes import build_beside

ADVICE = (
    "24 images look like another one of their import, and may be in another split; --group-by "
    "similar keeps them together"
)


def scene(seed: int, *, by_px: int = 0) -> NDArray[np.uint8]:
    """A picture of soft blobs, seen from a camera that moves sideways."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 16, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (300, 96), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[:, by_px : by_px + 120], dtype=np.uint8)


def write_dataset(root: Path, sequences: dict[str, int]) -> Path:
    """Write 12 images of each scene, given by its first name and seed, and a box on each."""
    for name, seed in sequences.items():
        for number in range(12):
            for folder in ("images", "labels"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            image = root / f"images/{name}{number}.jpg"
            image.write_bytes(encode_jpeg(scene(seed, by_px=2 * number)))
            (root / f"labels/{name}{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return root


def run_import(root: Path, captures: Path, **settings: Any) -> None:
    config = ImportConfig(output_root=captures, **settings)
    import_yolo(root / "images", root / "labels", config=config)


def build(captures: Path, **settings: Any) -> ETLResult:
    return build_beside(captures, **{"split": "0.5,0.25,0.25", **settings})


def groups_in(result: ETLResult) -> dict[str, str]:
    return {row["sample_id"]: row["group_id"] for row in StoredSamples(result.manifest_path).rows}


def test_etl_merges_what_an_import_left_apart_as_the_import_would_have(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, {"a": 1, "b": 2})
    run_import(root, tmp_path / "apart/captures", run_id="x")
    run_import(root, tmp_path / "together/captures", run_id="x", group_by="similar")
    apart = build(tmp_path / "apart/captures")
    assert ADVICE in apart.notes
    assert len(set(groups_in(apart).values())) == 24
    merged = build(tmp_path / "apart/captures", group_by="similar")
    assert not any("--group-by" in note for note in merged.notes)
    assert set(groups_in(merged).values()) == {"a0", "b0"}
    assert merged.manifest.split_method == "ratios 0.5,0.25,0.25 similar"
    imported = build(tmp_path / "together/captures")
    assert not any("--group-by" in note for note in imported.notes)
    assert groups_in(imported) == groups_in(merged)
    again = build(tmp_path / "apart/captures", group_by="similar")
    assert (again.built, again.manifest) == (False, merged.manifest)
    other = build(tmp_path / "together/captures", group_by="similar")
    assert groups_in(other) == groups_in(merged)


def test_a_dataset_that_was_imported_twice_is_one_group_for_each_scene(tmp_path: Path) -> None:
    """No group of the captures is cut: those of the second import hold whole sequences."""
    captures = tmp_path / "captures"
    run_import(write_dataset(tmp_path / "first", {"a": 1, "b": 2}), captures, run_id="x")
    second = write_dataset(tmp_path / "second", {"p_": 2, "q_": 3})
    run_import(second, captures, run_id="y", group_regex="^(.)_")
    groups = groups_in(build(captures, group_by="similar"))
    of_second = {name: group for name, group in groups.items() if name.startswith("y/")}
    assert sorted(of_second.values()) == ["b0"] * 12 + ["q"] * 12
    assert sorted(set(groups.values())) == ["a0", "b0", "q"]


def test_an_unreadable_image_is_counted_and_joins_no_group(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    run_import(write_dataset(tmp_path, {"a": 1, "b": 2}), captures, run_id="x")
    for number in (3, 15):
        path = captures / f"run_x/images/frame_{number:05d}.jpg"
        path.unlink()
        path.write_bytes(b"no image")
    (captures / "run_x/images/frame_00007.jpg").unlink()
    result = build(captures, group_by="similar", max_invalid="3", max_missing="3")
    total = result.manifest.validation.total
    assert (total["usable"], total["invalid"], total["missing"]) == (21, 2, 1)
    assert set(groups_in(result).values()) == {"a0", "b0"}


@pytest.mark.parametrize("settings", [{}, {"split": "0.8,0.1,0.1", "split_rule": "sha256:2"}])
def test_such_a_warehouse_is_explained_and_repaired(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    captures = tmp_path / "captures"
    run_import(write_dataset(tmp_path, {"a": 1, "b": 2, "c": 3}), captures, run_id="x")
    result = build(captures, group_by="similar", **settings)
    found = explain_sample(result.manifest_path, sample_id="x/frame_00005")
    assert found.split_reason.startswith("the group's hash ")
    before = files_in(result.manifest_path.parent)
    (result.manifest_path.parent / result.manifest.shards[0].file).write_bytes(b"damaged")
    assert repair_warehouse(result.manifest_path, captures=captures).built
    assert files_in(result.manifest_path.parent) == before


def test_a_split_file_is_refused_with_it(tmp_path: Path) -> None:
    write_json(tmp_path / "splits.json", {"train": []})
    with pytest.raises(HaustraError) as caught:
        ETLConfig(split_file=tmp_path / "splits.json", group_by="similar")
    assert str(caught.value) == (
        "split_file and group_by='similar': expected one of them, since a file lists the groups as "
        "the captures state them"
    )
