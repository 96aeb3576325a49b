"""What holds for every importer, shown with the simplest of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builders import files_in, write_image
from haustra.captures.importers.dataset import ImportConfig, ImportResult, group_of_name
from haustra.captures.importers.paired import import_yolo
from haustra.captures.reader import read_run
from haustra.core.errors import HaustraError


def write_dataset(tmp_path: Path, *names: str) -> Path:
    root = tmp_path / "My Data"
    (root / "labels").mkdir(parents=True)
    for index, name in enumerate(names):
        write_image(root / "images" / name, seed=index)
    return root


def run_import(root: Path, **changes: Any) -> ImportResult:
    settings = {"output_root": root.parent / "captures", "allow_unlabelled": True, **changes}
    config = ImportConfig(**settings)
    return import_yolo(root / "images", root / "labels", config=config)


def import_error(root: Path, **changes: Any) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(root, **changes)
    return str(caught.value)


@pytest.mark.parametrize("can_link", [True, False])
def test_images_are_never_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("another disk")

    if not can_link:
        monkeypatch.setattr(os, "link", fail)
    root = write_dataset(tmp_path, "a.jpg", "b.JPG", "c.png", "d.webp")
    before = files_in(root)
    folder = run_import(root).folder
    names = ["frame_00000.jpg", "frame_00001.jpg", "frame_00002.png", "frame_00003.webp"]
    assert sorted(path.name for path in (folder / "images").iterdir()) == names
    originals = sorted((root / "images").iterdir())
    for original, name in zip(originals, names, strict=True):
        assert (folder / "images" / name).read_bytes() == original.read_bytes()
        assert (folder / "images" / name).samefile(original) == can_link
    assert files_in(root) == before


def test_the_run_stores_its_provenance(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, "a.png")
    result = run_import(root, dataset="Kvasir-SEG", licence="L", citation="C")
    assert result.folder == tmp_path / "captures/run_kvasir-seg"
    run = read_run(result.folder)
    manifest = run.manifest
    assert (run.run_id, manifest.source, manifest.num_frames) == ("kvasir-seg", "imported", 1)
    assert (manifest.dataset, manifest.licence, manifest.citation) == ("Kvasir-SEG", "L", "C")
    label = run.frames[0].label
    assert label is not None
    assert (label.source, label.source_name) == ("imported", "a.png")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "run_my-data"),
        ({"dataset": "CVC ClinicDB"}, "run_cvc-clinicdb"),
        ({"dataset": "CVC ClinicDB", "run_id": "Own_id-1"}, "run_Own_id-1"),
    ],
)
def test_the_run_is_named_by_its_id_its_data_set_or_its_folder(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    assert run_import(write_dataset(tmp_path, "a.png"), **changes).folder.name == name


@pytest.mark.parametrize("run_id", ["../x", "a/b", "a b", "", ".", "a*"])
def test_a_run_id_with_other_characters_is_refused(run_id: str) -> None:
    with pytest.raises(HaustraError) as caught:
        ImportConfig(run_id=run_id)
    assert str(caught.value) == (f"run_id={run_id!r}: expected letters, digits, '-' and '_' only")


def test_an_existing_run_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, "a.png")
    folder = run_import(root).folder
    write_image(root / "images/b.png", seed=9)
    before = files_in(folder)
    assert import_error(root) == f"{folder} exists already; remove it or pass overwrite=True"
    assert files_in(folder) == before
    assert run_import(root, overwrite=True).num_images == 2
    assert len(read_run(folder).frames) == 2


def test_every_image_is_a_group_of_its_own_by_default(tmp_path: Path) -> None:
    run = read_run(run_import(write_dataset(tmp_path, "a.png", "b.png")).folder)
    assert [frame.group_id for frame in run.frames] == ["a", "b"]


@pytest.mark.parametrize(
    ("group_regex", "groups"),
    [
        (r"^(p\d+)_", ["p1", "p1", "p2"]),
        (r"p\d+", ["p1", "p1", "p2"]),
        (r"(?:p)(\d+)", ["1", "1", "2"]),
    ],
)
def test_a_pattern_gathers_images_into_groups(
    tmp_path: Path, group_regex: str, groups: list[str]
) -> None:
    root = write_dataset(tmp_path, "p1_a.png", "p1_b.png", "p2_a.png")
    run = read_run(run_import(root, group_regex=group_regex).folder)
    assert [frame.group_id for frame in run.frames] == groups


@pytest.mark.parametrize("group_regex", [r"patient", r"(x)?b", r"x*"])
def test_a_pattern_that_finds_no_group_is_refused(tmp_path: Path, group_regex: str) -> None:
    root = write_dataset(tmp_path, "b.png")
    assert import_error(root, group_regex=group_regex) == (
        f"group_regex={group_regex!r} does not match 'b'; expected a pattern that matches "
        "every image"
    )
    assert list((tmp_path / "captures").iterdir()) == []


def test_the_group_of_a_stem_is_the_stem_without_a_pattern() -> None:
    assert group_of_name("center_1/a_1.png", group_regex=None) == "center_1/a_1"


def test_an_invalid_regular_expression_is_refused() -> None:
    with pytest.raises(HaustraError) as caught:
        ImportConfig(group_regex="(p")
    assert str(caught.value) == (
        "group_regex='(p' is not a regular expression: missing ), unterminated subpattern at "
        "position 0"
    )


def test_rejected_boxes_are_named_in_the_result_and_in_the_run(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, "a.png", "b.png")
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n0 nan 0.5 0.5 0.5\n0 0.5 0.5 0 0.5\n")
    (root / "labels/b.txt").write_text("0 2.5 0.5 0.5 0.5\n0 1 0.5 0.5 0.5\n")
    result = run_import(root)
    notes = [
        "a.png: box [nan, 6, nan, 18] has a value that is not finite",
        "a.png: box [16, 6, 16, 18] is empty",
        "b.png: line 1: '0 2.5 0.5 0.5 0.5' has a value above 1; expected shares of the image, not "
        "pixels",
    ]
    assert result == ImportResult(
        folder=result.folder,
        num_images=2,
        num_boxes=2,
        num_empty=0,
        num_clipped=1,
        num_rejected=3,
        num_similar=0,
        classes={"0": 4},
        notes=notes,
    )
    manifest = json.loads((result.folder / "run_manifest.json").read_text())
    assert manifest["import_result"] == {
        "images": 2,
        "boxes": 2,
        "empty": 0,
        "clipped_boxes": 1,
        "rejected_boxes": 3,
        "similar_images": 0,
        "classes": {"0": 4},
        "notes": notes,
    }
    labels = read_run(result.folder).frames
    assert [len(frame.label.rejected) for frame in labels if frame.label] == [2, 1]


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, missing: str) -> None:
    root = write_dataset(tmp_path, "a.png")
    (root / missing).rename(root / "elsewhere")
    what = {"images": "a folder of images", "labels": "a folder of YOLO label files"}[missing]
    assert import_error(root) == f"{root / missing} does not exist; expected {what}"


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path)
    (root / "images").mkdir()
    (root / "images/notes.txt").write_text("")
    assert import_error(root) == (
        f"{root / 'images'} holds no image (PNG, JPEG, BMP, TIFF or WebP) (files of "
        f"{root / 'images'} that are not read: 1 .txt)"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"text", "is not an image (PNG, JPEG, BMP, TIFF or WebP)"),
        (b"\xff\xd8 \xff\xda", "is cut short: its end marker is missing"),
    ],
)
def test_an_image_that_cannot_be_read_stops_the_import(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    root = write_dataset(tmp_path, "a.png", "b.jpg")
    (root / "images/b.jpg").write_bytes(data)
    assert import_error(root) == f"{root / 'images/b.jpg'} {reason}"
    assert list((tmp_path / "captures").iterdir()) == []


def test_two_images_with_the_same_stem_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, "a.png", "b.jpg", "b.png")
    assert import_error(root) == (
        f"b.jpg and b.png of {root / 'images'} have the same stem, so they would be confused; "
        "expected one file per stem"
    )


def test_a_run_stores_the_split_that_the_user_states_and_no_other(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, "a.png")
    assert read_run(run_import(root, split="val").folder).manifest.split == "val"
    plain = run_import(root, run_id="plain").folder / "run_manifest.json"
    assert '"split"' not in plain.read_text()
    assert import_error(root, split="valid") == "split='valid': expected one of train, val, test"
