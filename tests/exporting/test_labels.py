"""`haustra convert`: what it writes is what this project and others read."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import files_in, write_image
from haustra.captures.importers.coco import import_coco
from haustra.captures.importers.cvat import import_cvat
from haustra.captures.importers.data_yaml import import_data_yaml
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.label_studio import import_label_studio
from haustra.captures.importers.paired import import_voc, import_yolo
from haustra.captures.reader import read_run
from haustra.captures.schema import RunManifest
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.errors import HaustraError
from haustra.exporting.labels import ConvertConfig, ConvertResult, LabelFormat, convert_labels

SIZE_WH = (80, 50)
BOXES: list[list[tuple[float, float, float, float]]] = [
    [(10.0, 5.0, 40.5, 30.25), (0.0, 0.0, 80.0, 50.0)],
    [],
    [(79.4, 49.4, 80.0, 50.0)],
]


def write_run(root: Path, *, run_id: str = "a", scores: bool = False) -> Path:
    folder = root / f"run_{run_id}"
    image = root.parent / "image.png"
    write_image(image, size_wh=SIZE_WH)
    with writing_run(folder, manifest=RunManifest(run_id=run_id, source="imported")) as writer:
        for number, boxes in enumerate(BOXES):
            truths = [
                PolypTruth(
                    bbox_px=box,
                    lesion_id=f"{run_id}/lesion_{i}",
                    score=0.9 - i / 2 if scores else None,
                )
                for i, box in enumerate(boxes)
            ]
            writer.add_frame(
                image, suffix=".png", image_size_wh=SIZE_WH, labels=truths, source_name=str(number)
            )
    return folder


def convert(source: Path, *, to: LabelFormat, out: Path, **settings: Any) -> ConvertResult:
    return convert_labels(source, config=ConvertConfig(to=to, output_root=out, **settings))


def boxes_of(run_folder: Path) -> list[NDArray[np.float64]]:
    checked = [check_frame(frame) for frame in read_run(run_folder).frames]
    assert all(isinstance(frame, CheckedFrame) for frame in checked)
    return [frame.boxes_px for frame in checked if isinstance(frame, CheckedFrame)]


def import_one_of_coco(*arguments: Any, **settings: Any) -> ImportResult:
    """Import a COCO file that makes one run."""
    [result] = import_coco(*arguments, **settings)
    return result


@pytest.mark.parametrize(
    ("to", "importer", "tolerance_px"),
    [
        ("coco", import_one_of_coco, 1e-9),
        ("yolo", import_yolo, 1e-4),
        ("voc", import_voc, 0.61),
        ("cvat", import_cvat, 0.006),
        ("label-studio", import_label_studio, 1e-9),
    ],
)
def test_labels_come_back_by_our_own_import(
    tmp_path: Path, to: LabelFormat, importer: Any, tolerance_px: float
) -> None:
    result = convert(write_run(tmp_path / "captures"), to=to, out=tmp_path / "out")
    assert (result.num_images, result.num_boxes, result.problems) == (3, 3, [])
    config = ImportConfig(output_root=tmp_path / "back")
    back = importer(result.folder / "images", result.labels, config=config)
    for expected, found in zip(BOXES, boxes_of(back.folder), strict=True):
        np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)), atol=tolerance_px)


def write_video(root: Path, *, run_id: str, **manifest: Any) -> None:
    """Write a run of 12 frames, each with the box of one lesion and an image of its own."""
    with writing_run(
        root / f"run_{run_id}", manifest=RunManifest(run_id=run_id, **manifest)
    ) as writer:
        for number in range(12):
            path = root.parent / f"images/{run_id}{number}.png"
            write_image(path, seed=number + 100 * len(run_id), size_wh=SIZE_WH)
            truth = PolypTruth(bbox_px=BOXES[0][0], lesion_id=f"{run_id}/polyp")
            writer.add_frame(path, suffix=".png", image_size_wh=SIZE_WH, labels=[truth])


def test_videos_of_coco_keep_their_order_rate_and_lesions(tmp_path: Path) -> None:
    for run_id, rate in (("a", 25.0), ("bb", 29.97), ("stills", None)):
        write_video(tmp_path / "captures", run_id=run_id, frame_rate_hz=rate)
    for gone in ("run_a/labels/frame_00000.json", "run_a/labels/frame_00007.json"):
        (tmp_path / "captures" / gone).unlink()
    result = convert(tmp_path / "captures", to="coco", out=tmp_path / "out")
    value = json.loads(result.labels.read_text())
    assert value["videos"] == [
        {"id": 1, "name": "a", "fps": 25.0},
        {"id": 2, "name": "bb", "fps": 29.97},
    ]
    config = ImportConfig(output_root=tmp_path / "back", dataset="x")
    back = import_coco(result.folder / "images", result.labels, config=config)
    runs = {run.run_id: run for run in (read_run(found.folder) for found in back)}
    assert {run_id: run.manifest.time_order_rate_hz for run_id, run in runs.items()} == {
        "x": None,
        "x-a": 25.0,
        "x-bb": 29.97,
    }
    labels = [frame.label for frame in runs["x-a"].frames if frame.label]
    kept = [number for number in range(1, 12) if number != 7]
    assert [label.source_name for label in labels] == [f"a_frame_{n:05d}.png" for n in kept]
    assert [label.sim_time for label in labels] == pytest.approx([(n - 1) / 25 for n in kept])
    assert {polyp.lesion_id for label in labels for polyp in label.labels} == {"a/polyp"}


def test_pycocotools_reads_a_file_with_videos(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    write_video(tmp_path / "captures", run_id="a", frame_rate_hz=25.0)
    read = coco.COCO(str(convert(tmp_path / "captures", to="coco", out=tmp_path / "out").labels))
    assert [image["frame_id"] for image in read.loadImgs(read.getImgIds())] == list(range(12))
    assert {image["video_id"] for image in read.loadImgs(read.getImgIds())} == {1}


def test_a_data_yaml_keeps_the_splits_that_all_runs_state(tmp_path: Path) -> None:
    for run_id, split in (("a", "train"), ("bb", "val"), ("ccc", "train")):
        write_video(tmp_path / "captures", run_id=run_id, split=split)
    result = convert(tmp_path / "captures", to="yolo", out=tmp_path / "out")
    assert (result.folder / "data.yaml").read_text() == (
        "train: train.txt\nval: val.txt\nnames:\n  0: polyp\n"
    )
    config = ImportConfig(output_root=tmp_path / "back")
    train, val = import_data_yaml(result.folder, config=config)
    assert (train.num_images, train.num_boxes, train.notes) == (24, 24, [])
    assert (val.num_images, read_run(val.folder).manifest.split) == (12, "val")


def test_a_data_yaml_of_runs_without_a_split_is_one_run(tmp_path: Path) -> None:
    write_video(tmp_path / "captures", run_id="a", split="train")
    write_video(tmp_path / "captures", run_id="bb")
    result = convert(tmp_path / "captures", to="yolo", out=tmp_path / "out")
    config = ImportConfig(output_root=tmp_path / "back")
    (back,) = import_data_yaml(result.folder / "data.yaml", config=config)
    assert (back.num_images, read_run(back.folder).manifest.split) == (24, None)
    assert back.notes == ["train and val name the same images: taken once"]


def test_pycocotools_reads_the_coco_file(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    result = convert(write_run(tmp_path / "captures"), to="coco", out=tmp_path / "out")
    read = coco.COCO(str(result.labels))
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == [
        "a_frame_00000.png",
        "a_frame_00001.png",
        "a_frame_00002.png",
    ]
    first = read.loadAnns(read.getAnnIds(imgIds=[1]))
    assert [item["bbox"] for item in first] == [[10.0, 5.0, 30.5, 25.25], [0.0, 0.0, 80.0, 50.0]]
    assert [item["attributes"]["lesion_id"] for item in first] == ["a/lesion_0", "a/lesion_1"]
    assert [item["track_id"] for item in first] == [1, 2]
    assert not any("score" in item for item in first)


def test_cvat_gets_one_image_element_per_frame_with_corners_in_pixels(tmp_path: Path) -> None:
    result = convert(write_run(tmp_path / "captures"), to="cvat", out=tmp_path / "out")
    root = ElementTree.parse(result.labels).getroot()
    assert (root.tag, root.findtext("version")) == ("annotations", "1.1")
    images = root.findall("image")
    assert [len(image.findall("box")) for image in images] == [2, 0, 1]
    assert images[0].attrib == {
        "id": "0",
        "name": "a_frame_00000.png",
        "width": "80",
        "height": "50",
    }
    box = images[0].find("box")
    assert box is not None
    assert [box.get(name) for name in ("xtl", "ytl", "xbr", "ybr")] == [
        "10.00",
        "5.00",
        "40.50",
        "30.25",
    ]
    assert (box.get("label"), box.get("source")) == ("polyp", "manual")


def test_label_studio_gets_percent_of_the_original_size(tmp_path: Path) -> None:
    result = convert(write_run(tmp_path / "captures"), to="label-studio", out=tmp_path / "out")
    task = json.loads(result.labels.read_text())[0]
    assert task["data"] == {"image": "/data/local-files/?d=images/a_frame_00000.png"}
    region = task["annotations"][0]["result"][0]
    value = {name: region["value"][name] for name in ("x", "y", "width", "height")}
    assert value == pytest.approx({"x": 12.5, "y": 10, "width": 38.125, "height": 50.5})
    assert (region["original_width"], region["original_height"]) == SIZE_WH


def test_predicted_labels_of_a_run_become_pre_annotations(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures", scores=True)
    tasks = convert(run, to="label-studio", out=tmp_path / "ls").labels
    first, second, _ = json.loads(tasks.read_text())
    assert "annotations" not in first
    assert [region["score"] for region in first["predictions"][0]["result"]] == [0.9, 0.4]
    assert second["predictions"][0]["result"] == []
    sure = convert(run, to="cvat", out=tmp_path / "cvat", min_score=0.5)
    assert sure.num_boxes == 2
    boxes = list(ElementTree.parse(sure.labels).getroot().iter("box"))
    assert {box.get("source") for box in boxes} == {"auto"}


def test_output_of_infer_becomes_pre_annotations_of_its_images(tmp_path: Path) -> None:
    write_image(tmp_path / "frames/x.png", size_wh=SIZE_WH)
    entry = {
        "image": str(tmp_path / "frames/x.png"),
        "image_size_wh": list(SIZE_WH),
        "boxes_px": [[1.0, 2.0, 3.0, 4.0]],
        "scores": [0.75],
    }
    value = {"detector": "tiny", "heuristic": False, "images": [entry]}
    source = tmp_path / "found.json"
    source.write_text(json.dumps(value))
    result = convert(source, to="coco", out=tmp_path / "out")
    read = json.loads(result.labels.read_text())
    assert [(item["bbox"], item["score"]) for item in read["annotations"]] == [
        ([1.0, 2.0, 2.0, 2.0], 0.75)
    ]
    assert (result.folder / "images/x.png").is_file()
    source.write_text(json.dumps(value | {"images": [entry, entry]}))
    with pytest.raises(HaustraError, match=r"2 images are named 'x'"):
        convert(source, to="coco", out=tmp_path / "twice")
    source.write_text(json.dumps(value | {"images": [{**entry, "scores": [7]}]}))
    with pytest.raises(HaustraError, match=r"image 0: score 7: expected a number from 0 to 1"):
        convert(source, to="coco", out=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_stored_predictions_take_their_images_from_the_captures(tmp_path: Path) -> None:
    write_run(tmp_path / "captures")
    entries = [{"image_id": "a/frame_00001", "bbox": [1, 2, 3, 4], "score": 0.5}]
    source = tmp_path / "predictions.json"
    source.write_text(json.dumps(entries))
    result = convert(source, to="voc", out=tmp_path / "out", captures=tmp_path / "captures")
    assert [path.name for path in result.labels.iterdir()] == ["a_frame_00001.xml"]
    assert (result.num_images, result.num_boxes) == (1, 1)
    with pytest.raises(HaustraError, match="pass their folder with captures"):
        convert(source, to="voc", out=tmp_path / "none")
    source.write_text(json.dumps([*entries, {**entries[0], "image_id": "b/frame_00000"}]))
    result = convert(source, to="voc", out=tmp_path / "two", captures=tmp_path / "captures")
    assert result.problems == [
        f"1 predicted frame(s) have no usable image in {tmp_path / 'captures'}"
    ]


def test_images_without_a_label_file_are_left_out_and_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures")
    (run / "labels/frame_00001.json").unlink()
    result = convert(run, to="coco", out=tmp_path / "out")
    assert result.num_images == 2
    assert result.problems == ["a: 1 image(s) without a label file are left out"]


@pytest.mark.parametrize(
    ("to", "importer"),
    [
        ("voc", import_voc),
        ("cvat", import_cvat),
        ("label-studio", import_label_studio),
    ],
)
def test_lesions_and_the_order_of_a_video_come_back(
    tmp_path: Path, to: LabelFormat, importer: Any
) -> None:
    captures = tmp_path / "captures"
    manifest = RunManifest(run_id="video", source="imported", frame_rate_hz=4.0)
    with writing_run(captures / "run_video", manifest=manifest) as writer:
        for number in range(12):
            image = tmp_path / "image.png"
            write_image(image, size_wh=SIZE_WH, seed=number)
            truths = [PolypTruth(bbox_px=(5, 5, 20 + number, 30), lesion_id=f"v/{number // 6}")]
            writer.add_frame(
                image.read_bytes(),
                suffix=".png",
                image_size_wh=SIZE_WH,
                labels=truths,
                sim_time=number / 4,
            )
    result = convert(captures, to=to, out=tmp_path / "out")
    config = ImportConfig(output_root=tmp_path / "back", frame_rate_hz=4.0)
    back = read_run(importer(result.folder / "images", result.labels, config=config).folder)
    labels = [frame.label for frame in back.frames if frame.label is not None]
    assert [label.labels[0].bbox_px[2] for label in labels] == pytest.approx(range(20, 32), abs=0.6)
    lesions = [label.labels[0].lesion_id for label in labels]
    assert len(set(lesions[:6])) == len(set(lesions[6:])) == 1
    assert lesions[0] == "v/0"
    assert lesions[-1] == "v/1"
    assert back.manifest.time_order_rate_hz == 4
    if to == "label-studio":
        tasks = json.loads(result.labels.read_text())
        assert [task["data"]["time_s"] for task in tasks] == [number / 4 for number in range(12)]


@pytest.mark.parametrize(
    ("to", "importer"), [("coco", import_one_of_coco), ("cvat", import_cvat)], ids=["coco", "cvat"]
)
def test_predictions_that_nobody_has_touched_are_not_taken_as_labels(
    tmp_path: Path, to: LabelFormat, importer: Any
) -> None:
    result = convert(write_run(tmp_path / "captures", scores=True), to=to, out=tmp_path / "out")
    config = ImportConfig(output_root=tmp_path / "back")
    with pytest.raises(HaustraError) as caught:
        importer(result.folder / "images", result.labels, config=config)
    assert str(caught.value) == (
        f"{result.labels} is as `haustra convert` wrote it: its 3 boxes are predictions that "
        "nobody has confirmed; expected the export of a labeling tool, after a person has looked "
        "at them"
    )
    assert not (tmp_path / "back").exists()
    text = result.labels.read_text()
    # A labeling tool's export lacks the mark; then the boxes of a program are counted.
    result.labels.write_text(text.replace("predictions that nobody has confirmed", ""))
    notes = importer(result.folder / "images", result.labels, config=config).notes
    pattern = r"box that a program drew \(.*\), taken as a label: 3, first in"
    assert sum(bool(re.match(pattern, note)) for note in notes) == 1


def test_a_box_of_voc_with_a_confidence_is_noted(tmp_path: Path) -> None:
    result = convert(write_run(tmp_path / "captures", scores=True), to="voc", out=tmp_path / "out")
    config = ImportConfig(output_root=tmp_path / "back")
    notes = import_voc(result.folder / "images", result.labels, config=config).notes
    expected = "box that a program drew (it has a confidence), taken as a label: 3"
    assert sum(note.startswith(expected) for note in notes) == 1


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures")
    out = tmp_path / "out"
    convert(run, to="yolo", out=out)
    with pytest.raises(HaustraError, match="exists already"):
        convert(run, to="coco", out=out)
    assert (out / "labels").is_dir()
    convert(run, to="coco", out=out, overwrite=True)
    assert not (out / "labels").exists()


@pytest.mark.parametrize("name", [".", "captures", "captures/run_a", "captures/run_a/coco"])
def test_the_frames_are_never_replaced(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "captures")
    before = files_in(tmp_path)
    with pytest.raises(HaustraError, match="overlaps the source"):
        convert(run, to="coco", out=tmp_path / name, overwrite=True)
    assert files_in(tmp_path) == before
