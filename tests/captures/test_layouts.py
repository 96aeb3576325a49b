"""Public datasets as they are unpacked: a tiny copy of each goes through the whole pipeline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders import write_image
from haustra.captures.importers.dataset import DatasetConfig
from haustra.captures.importers.layouts import LAYOUTS, LayoutName, import_layout
from haustra.captures.reader import Run, read_run, read_runs
from haustra.cli.main import main
from haustra.core.errors import HaustraError

SIZE_WH = (80, 60)
PAGE = Path(__file__).parents[2] / "docs/datasets.md"
BOX = (10, 12, 41, 40)
"""Polyp of every image that has one, `x0,y0,x1,y1` in pixels."""


def write_mask(path: Path, *, has_polyp: bool = True) -> None:
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), np.uint8)
    if has_polyp:
        mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_masks(root: Path, *, images: str, masks: str, count: int = 6, seed: int = 0) -> None:
    """Write images and masks whose paths contain a number."""
    for number in range(count):
        write_image(root / images.format(number), seed=seed + number, size_wh=SIZE_WH)
        write_mask(root / masks.format(number))


def write_kvasir_boxes(root: Path) -> None:
    x0, y0, x1, y1 = BOX
    box = {"label": "polyp", "xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1}
    content = {}
    for number in range(6):
        write_image(root / f"images/cju{number}.jpg", seed=number, size_wh=SIZE_WH)
        content[f"cju{number}"] = {"width": SIZE_WH[0], "height": SIZE_WH[1], "bbox": [box]}
    write_text(root / "kavsir_bboxes.json", json.dumps(content))


def write_kvasir(root: Path) -> None:
    write_masks(root, images="images/cju{}.jpg", masks="masks/cju{}.jpg")


def write_hyper_kvasir(root: Path) -> None:
    inside = "segmented-images"
    write_masks(root, images=f"{inside}/images/cju{{}}.jpg", masks=f"{inside}/masks/cju{{}}.jpg")


def write_clinic(root: Path) -> None:
    write_masks(root, images="Original/{}.png", masks="Ground Truth/{}.png")


def write_etis(root: Path) -> None:
    write_masks(root, images="{}.png", masks="p{}.png")


def write_polypgen(root: Path) -> None:
    for center in range(1, 5):
        write_masks(
            root,
            images=f"data_C{center}/images_C{center}/C{center}_{{}}.jpg",
            masks=f"data_C{center}/masks_C{center}/C{center}_{{}}_mask.jpg",
            count=3,
            seed=10 * center,
        )
    sequence = "sequenceData/positive/seq1/{}_seq1"
    write_masks(
        root,
        images=sequence.format("images") + "/{}.jpg",
        masks=sequence.format("masks") + "/{}_mask.jpg",
        count=2,
        seed=90,
    )
    write_image(root / "sequenceData/negativeOnly/seq2_neg/1.jpg", seed=99, size_wh=SIZE_WH)


def write_sun_seg(root: Path) -> None:
    for case in range(1, 5):
        write_masks(
            root,
            images=f"TrainDataset/Frame/case{case}_1/image_{{}}.jpg",
            masks=f"TrainDataset/GT/case{case}_1/image_{{}}.png",
            count=3,
            seed=10 * case,
        )


def write_ldpolypvideo(root: Path) -> None:
    for video in range(1, 5):
        for number in (1, 2, 10):
            name = f"{video}/{number:04}"
            write_image(root / f"Images/{name}.jpg", seed=10 * video + number, size_wh=SIZE_WH)
            lines = "0\n" if number == 2 else f"1\n{BOX[0]} {BOX[1]} {BOX[2]} {BOX[3]}\n"
            write_text(root / f"Annotations/{name}.txt", lines)


def write_real_colon(root: Path) -> None:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    size = f"<size><width>{SIZE_WH[0]}</width><height>{SIZE_WH[1]}</height><depth>3</depth></size>"
    rows = ["unique_video_name,age,fps"]
    for video in ("001-001", "001-002", "002-001", "003-001"):
        rows.append(f"{video},60,29.97")
        for number in (1, 2, 10):
            name = f"{video}_{number}"
            seed = 20 * int(video.replace("-", "")) + number
            write_image(root / f"{video}_frames/{name}.jpg", seed=seed, size_wh=SIZE_WH)
            polyp = (
                f"<object><name>lesion</name><unique_id>{video}_1</unique_id><box_id>1</box_id>"
                f"<bndbox>{box}</bndbox></object>"
            )
            text = f"<annotation><filename>{name}.jpg</filename>{size}{polyp * (number > 1)}"
            write_text(root / f"{video}_annotations/{name}.xml", f"{text}</annotation>")
    write_text(root / "video_info.csv", "\n".join(rows))
    write_text(
        root / "lesion_info.csv",
        "unique_object_id,unique_video_name,size [mm],site\n001-001_1,001-001,7,cecum\n",
    )


WRITERS: dict[LayoutName, Callable[[Path], None]] = {
    "kvasir-seg": write_kvasir,
    "hyper-kvasir": write_hyper_kvasir,
    "cvc": write_clinic,
    "etis": write_etis,
    "polypgen": write_polypgen,
    "sun-seg": write_sun_seg,
    "ldpolypvideo": write_ldpolypvideo,
    "real-colon": write_real_colon,
}


def run_import(tmp_path: Path, name: LayoutName, write: Callable[[Path], None]) -> list[Run]:
    root = tmp_path / "unpacked"
    write(root)
    config = DatasetConfig(output_root=tmp_path / "captures")
    return [read_run(result.folder) for result in import_layout(name, root, config=config)]


def boxes_of(run: Run) -> list[list[list[float]]]:
    labels = [frame.label for frame in run.frames if frame.label is not None]
    return [[polyp.bbox_px for polyp in label.labels] for label in labels]


def test_every_layout_has_a_tiny_copy() -> None:
    assert WRITERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", ["kvasir-seg", "hyper-kvasir", "cvc", "etis"])
def test_masks_give_one_run_of_unrelated_images(tmp_path: Path, name: LayoutName) -> None:
    (run,) = run_import(tmp_path, name, WRITERS[name])
    assert boxes_of(run) == [[list(BOX)]] * 6
    assert len({frame.group_id for frame in run.frames}) == 6
    assert run.manifest.dataset == LAYOUTS[name].dataset
    assert run.manifest.time_order_rate_hz is None
    assert run.manifest.import_result is not None
    assert LAYOUTS[name].not_known in run.manifest.import_result["notes"]


def test_boxes_of_kvasir_are_those_of_its_masks(tmp_path: Path) -> None:
    (boxes,) = run_import(tmp_path / "boxes", "kvasir-seg", write_kvasir_boxes)
    (masks,) = run_import(tmp_path / "masks", "kvasir-seg", write_kvasir)
    assert boxes_of(boxes) == boxes_of(masks)


def test_polypgen_is_held_out_by_center(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "polypgen", write_polypgen)
    assert [run.run_id for run in runs] == [
        *(f"polypgen-c{center}" for center in range(1, 5)),
        "polypgen-seq1",
        "polypgen-seq2-neg",
    ]
    assert [{frame.group_id for frame in run.frames} for run in runs] == [
        *({f"c{center}"} for center in range(1, 5)),
        {"seq1"},
        {"seq2_neg"},
    ]
    assert [len(boxes) for boxes in boxes_of(runs[-1])] == [0]


def test_a_clip_of_sun_seg_belongs_to_its_case_and_needs_its_masks(tmp_path: Path) -> None:
    run, *_ = run_import(tmp_path, "sun-seg", write_sun_seg)
    assert (run.run_id, run.manifest.frame_rate_hz) == ("sun-seg-traindataset-case1-1", 30)
    assert {frame.group_id for frame in run.frames} == {"case1"}
    write_image(tmp_path / "unpacked/TrainDataset/Frame/case9_1/a.jpg", size_wh=SIZE_WH)
    config = DatasetConfig(output_root=tmp_path / "again")
    with pytest.raises(HaustraError, match=r"case9_1 does not exist; expected a folder of masks"):
        import_layout("sun-seg", tmp_path / "unpacked", config=config)


def test_the_folders_of_sun_seg_state_the_splits(tmp_path: Path) -> None:
    root = tmp_path / "unpacked/SUN-SEG-Annotation"
    for seed, inside in enumerate(
        ("TrainDataset", "TestEasyDataset/Seen", "TestHardDataset/Seen", "TestHardDataset/Unseen")
    ):
        clip = f"case{seed}_1/a"
        write_masks(
            root / inside, images=f"Frame/{clip}{{}}.jpg", masks=f"GT/{clip}{{}}.png", seed=9 * seed
        )
    config = DatasetConfig(output_root=tmp_path / "captures")
    runs = [read_run(r.folder) for r in import_layout("sun-seg", root.parent, config=config)]
    assert {run.run_id: run.manifest.split for run in runs} == {
        "sun-seg-traindataset-case0-1": "train",
        "sun-seg-testeasydataset-seen-case1-1": "test",
        "sun-seg-testharddataset-seen-case2-1": "test",
        "sun-seg-testharddataset-unseen-case3-1": "test",
    }
    config = DatasetConfig(output_root=tmp_path / "part")
    (run, *_) = import_layout("sun-seg", root / "TestHardDataset", config=config)
    assert (run.folder.name, read_run(run.folder).manifest.split) == (
        "run_sun-seg-seen-case2-1",
        "test",
    )


def test_videos_of_ldpolypvideo_state_the_number_of_boxes(tmp_path: Path) -> None:
    run, *_ = run_import(tmp_path, "ldpolypvideo", write_ldpolypvideo)
    assert boxes_of(run) == [[list(BOX)], [], [list(BOX)]]
    (tmp_path / "unpacked/Annotations/1/0001.txt").write_text("2\n1 2 3 4\n")
    config = DatasetConfig(output_root=tmp_path / "again")
    with pytest.raises(HaustraError, match="expected the number of boxes"):
        import_layout("ldpolypvideo", tmp_path / "unpacked", config=config)


def test_real_colon_keeps_time_lesions_and_sizes(tmp_path: Path) -> None:
    run, *others = run_import(tmp_path, "real-colon", write_real_colon)
    assert len(others) == 3
    assert (run.run_id, run.manifest.time_order_rate_hz) == ("real-colon-001-001", 29.97)
    labels = [frame.label for frame in run.frames if frame.label is not None]
    assert [label.source_name for label in labels] == [f"001-001_{n}.jpg" for n in (1, 2, 10)]
    assert boxes_of(run) == [[], [list(BOX)], [list(BOX)]]
    assert (labels[1].labels[0].lesion_id, labels[1].labels[0].size_mm) == ("001-001_1", 7)


def test_a_video_of_real_colon_without_its_row_says_that_its_rate_is_not_known(
    tmp_path: Path,
) -> None:
    write_real_colon(tmp_path / "unpacked")
    (tmp_path / "unpacked/video_info.csv").unlink()
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout("real-colon", tmp_path / "unpacked", config=config)
    assert "not known: frame rate, since video_info.csv lacks 001-001" in result.notes
    assert read_run(result.folder).manifest.time_order_rate_hz is None


@pytest.mark.parametrize("row", ["001-001,60,{}", "001-001,60,{}\n001-002,60,29.97"])
@pytest.mark.parametrize("rate", ["0", "-25", "nan", "inf", "29,97", ""])
def test_a_rate_or_size_that_is_no_number_above_0_is_not_known(
    tmp_path: Path, row: str, rate: str
) -> None:
    root = tmp_path / "unpacked"
    write_real_colon(root)
    write_text(root / "video_info.csv", f"unique_video_name,age,fps\n{row.format(rate)}\n")
    write_text(root / "lesion_info.csv", f"unique_object_id,size [mm]\n001-001_1,{rate}\n")
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout("real-colon", root, config=config)
    run = read_run(result.folder)
    assert "not known: frame rate, since video_info.csv lacks 001-001" in result.notes
    assert run.manifest.time_order_rate_hz is None
    label = run.frames[-1].label
    assert label is not None
    assert label.labels[0].size_mm is None


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("polypgen", "data_C7/images_C7/1.jpg"),
        ("polypgen", "data_C6/images_C6/1.jpg"),
        ("polypgen", "sequenceData/positive/seq9/images_seq9/1.jpg"),
        ("sun-seg", "TrainDataset/Frame/stray.jpg"),
        ("sun-seg", "TrainDataset/GT/case9_1/image_1.png"),
        ("ldpolypvideo", "Images/stray.jpg"),
        ("real-colon", "004-001_frames/004-001_1.jpg"),
        ("kvasir-seg", "more/1.jpg"),
    ],
)
def test_images_of_no_part_are_counted_and_named(
    tmp_path: Path, name: LayoutName, extra: str
) -> None:
    root = tmp_path / "unpacked"
    WRITERS[name](root)
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout(name, root, config=config)
    assert not [note for note in result.notes if "in no part" in note]
    write_image(root / extra, size_wh=SIZE_WH)
    results = import_layout(name, root, config=replace(config, overwrite=True))
    notes = [note for result in results for note in result.notes if "in no part" in note]
    folder = extra.rpartition("/")[0]
    assert notes == [f"1 image(s) are in no part of the layout, left out: those of '{folder}'"]


@pytest.mark.parametrize("label", [None, 7])
def test_boxes_of_kvasir_may_have_labels_of_any_type_and_suffixes_in_capitals(
    tmp_path: Path, label: Any
) -> None:
    def write(root: Path) -> None:
        write_kvasir_boxes(root)
        path = next(root.rglob("*.json"))
        content = json.loads(path.read_text())
        for item in content.values():
            for box in item["bbox"]:
                box["label"] = label
        path.write_text(json.dumps(content))
        for image in list(root.rglob("*.jpg")):
            image.rename(image.with_suffix(".JPG"))

    (run,) = run_import(tmp_path, "kvasir-seg", write)
    assert [list(BOX)] in boxes_of(run)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, name: LayoutName) -> None:
    write_image(tmp_path / "unpacked/some/picture.png", size_wh=SIZE_WH)
    with pytest.raises(HaustraError, match="does not have the layout of"):
        import_layout(name, tmp_path / "unpacked")
    with pytest.raises(HaustraError, match="is not a folder; expected"):
        import_layout(name, tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_each_layout_goes_from_import_to_evaluation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: LayoutName,
) -> None:
    WRITERS[name](tmp_path / "unpacked")
    monkeypatch.chdir(tmp_path)
    main(["import", name, "unpacked"])
    shown = f"$ haustra import {name} unpacked\n{capsys.readouterr().out}"
    assert shown in PAGE.read_text(), f"docs/datasets.md does not show:\n{shown}"
    groups = sorted({frame.group_id for run in read_runs("captures") for frame in run.frames})
    write_text(Path("split.json"), json.dumps({"val": groups[:1], "train": groups[1:]}))
    main(["prune"])
    main(["etl", "--target-size", "64", "--split-file", "split.json"])
    (manifest,) = Path("artifacts/tensor_warehouse").glob("*/manifest.json")
    training = ["--epochs", "1", "--checkpoint-out", "tiny.bin"]
    main(["train", "--manifest", str(manifest), "--model", "tiny", *training])
    capsys.readouterr()
    evaluation = ["--split", "val", "--detector-weights", "tiny.bin", "--json"]
    main(["eval", "--manifest", str(manifest), *evaluation])
    assert json.loads(capsys.readouterr().out)
