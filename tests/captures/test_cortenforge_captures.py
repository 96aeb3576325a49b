"""Captures in the spellings of CortenForge, written by hand, are read as they are."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders import write_json
from haustra.captures.reader import read_run
from haustra.captures.validation import CheckedFrame, FrameProblem, check_frame

RUN_ID = "run_1735732800123"
CENTER = [0.42, -0.18, 6.75]


def older_label(*labels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What its first three generations write."""
    return {
        "frame_id": 17,
        "sim_time": 8.415,
        "unix_time": 1735732808.538,
        "image": "images/frame_00000.png",
        "image_present": True,
        "camera_active": True,
        "polyp_seed": 20250101,
        "polyp_labels": list(labels),
        **changes,
    }


def newer_label(*labels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What its last generation writes."""
    label = older_label(**changes)
    del label["polyp_seed"], label["polyp_labels"]
    return {**label, "label_seed": 20250101, "labels": list(labels)}


def write_capture(tmp_path: Path, label: dict[str, Any], *, schema_version: Any = 1) -> Path:
    run = tmp_path / RUN_ID
    manifest = {
        "schema_version": schema_version,
        "seed": 20250101,
        "output_root": "assets/datasets/captures",
        "run_dir": f"assets/datasets/captures/{RUN_ID}",
        "started_at_unix": 1735732800.123,
        "max_frames": None,
    }
    write_json(run / "run_manifest.json", manifest)
    write_json(run / "labels/frame_00000.json", label)
    (run / "images").mkdir()
    rgba = np.full((360, 640, 4), (30, 60, 90, 255), np.uint8)  # as its recorder saves them
    cv2.imwrite(str(run / "images/frame_00000.png"), rgba)
    return run


def check_only_frame(run: Path) -> CheckedFrame | FrameProblem:
    (frame,) = read_run(run).frames
    return check_frame(frame)


def usable_frame(run: Path) -> CheckedFrame:
    checked = check_only_frame(run)
    assert isinstance(checked, CheckedFrame), checked.reason
    return checked


def test_the_older_spelling_is_read(tmp_path: Path) -> None:
    both = {
        "center_world": CENTER,
        "bbox_px": [201.6, 97.2, 278.4, 172.8],
        "bbox_norm": [0.315, 0.27, 0.435, 0.48],
    }
    run_folder = write_capture(tmp_path, older_label(both))
    run = read_run(run_folder)
    assert (run.run_id, run.manifest.seed, run.unlabeled) == (RUN_ID, 20250101, ())
    assert run.manifest.started_at_unix == 1735732800.123
    (frame,) = run.frames
    assert frame.label is not None
    assert (frame.label.frame_id, frame.label.label_seed) == (17, 20250101)
    assert frame.label.labels[0].center_world == CENTER
    assert (frame.sample_id, frame.group_id) == (f"{RUN_ID}/frame_00000", RUN_ID)
    checked = usable_frame(run_folder)
    assert checked.boxes_px.tolist() == [[201.6, 97.2, 278.4, 172.8]]
    assert checked.size_wh == (640, 360)
    assert checked.image_rgb[0, 0].tolist() == [90, 60, 30]


def test_the_newer_spelling_is_read(tmp_path: Path) -> None:
    polyp = {
        "center_world": [0.55, 0.12, 7.3],
        "bbox_px": [512.0, 90.0, 640.0, 198.0],
        "bbox_norm": [0.8, 0.25, 1.0, 0.55],
        "source": "sim_auto",
        "source_confidence": None,
    }
    run = write_capture(tmp_path, newer_label(polyp), schema_version="V1")
    (frame,) = read_run(run).frames
    assert frame.label is not None
    assert frame.label.label_seed == 20250101
    checked = usable_frame(run)
    assert checked.boxes_px.tolist() == [[512, 90, 640, 198]]
    assert checked.num_clipped == 0


@pytest.mark.parametrize("schema_version", [1, "1", "V1", "v1"])
def test_every_spelling_of_the_version_is_known(tmp_path: Path, schema_version: Any) -> None:
    run = write_capture(tmp_path, older_label(), schema_version=schema_version)
    assert len(usable_frame(run).boxes_px) == 0


@pytest.mark.parametrize("label", [older_label, newer_label])
@pytest.mark.parametrize(
    "polyp",
    [
        {"bbox_px": [201.6, 97.2, 278.4, 172.8]},
        {"bbox_px": [201.6, 97.2, 278.4, 172.8], "bbox_norm": None},
        {"bbox_norm": [0.315, 0.27, 0.435, 0.48]},
        {"bbox_px": None, "bbox_norm": [0.315, 0.27, 0.435, 0.48]},
    ],
)
def test_one_of_the_two_boxes_is_enough(tmp_path: Path, label: Any, polyp: dict[str, Any]) -> None:
    checked = usable_frame(write_capture(tmp_path, label({"center_world": CENTER, **polyp})))
    assert np.allclose(checked.boxes_px, [[201.6, 97.2, 278.4, 172.8]], atol=1e-9)
    assert checked.box_problems == ()


def test_pixels_win_where_the_two_boxes_disagree(tmp_path: Path) -> None:
    polyp = {"bbox_px": [10, 20, 30, 40], "bbox_norm": [0.5, 0.5, 0.75, 0.75]}
    checked = usable_frame(write_capture(tmp_path, older_label(polyp)))
    assert checked.boxes_px.tolist() == [[10, 20, 30, 40]]


def test_boxes_that_leave_the_image_as_it_writes_them_are_clipped(tmp_path: Path) -> None:
    polyps = [
        {"bbox_px": [-20.0, 100.0, 50.0, 400.0]},
        {"bbox_norm": [0.9, -0.1, 1.25, 0.5]},
        {"bbox_px": [10.0, 10.0, 20.0, 20.0]},
    ]
    checked = usable_frame(write_capture(tmp_path, older_label(*polyps)))
    expected = [[0, 100, 50, 360], [576, 0, 640, 180], [10, 10, 20, 20]]
    assert np.allclose(checked.boxes_px, expected, atol=1e-9)
    assert checked.num_clipped == 2


def test_a_polyp_that_was_not_projected_is_left_out_by_name(tmp_path: Path) -> None:
    seen = {"center_world": CENTER, "bbox_px": [10, 10, 20, 20], "bbox_norm": None}
    unseen = {"center_world": [-0.31, 0.27, 12.9], "bbox_px": None, "bbox_norm": None}
    checked = usable_frame(write_capture(tmp_path, older_label(seen, unseen)))
    assert checked.boxes_px.tolist() == [[10, 10, 20, 20]]
    assert checked.box_problems == (
        f"{RUN_ID}/frame_00000: label 1: it has neither bbox_px nor bbox_norm",
    )


@pytest.mark.parametrize(
    ("bbox_norm", "shown"),
    [
        ("0011", "'0011'"),
        (["0", "0", "1", "1"], "['0', '0', '1', '1']"),
        ([False, False, True, True], "[False, False, True, True]"),
        ([0.1, 0.2, 0.3], "[0.1, 0.2, 0.3]"),
        ({"a": 0, "b": 0, "c": 1, "d": 1}, "{'a': 0, 'b': 0, 'c': 1, 'd': 1}"),
    ],
)
def test_a_normalised_box_that_is_not_four_numbers_is_rejected(
    tmp_path: Path, bbox_norm: Any, shown: str
) -> None:
    checked = usable_frame(write_capture(tmp_path, older_label({"bbox_norm": bbox_norm})))
    assert len(checked.boxes_px) == 0
    assert checked.box_problems == (
        f"{RUN_ID}/frame_00000: label 0: box {shown} is not four numbers x0,y0,x1,y1",
    )


def test_a_frame_recorded_without_an_image_says_so(tmp_path: Path) -> None:
    label = older_label(image="frame_00001.png", image_present=False)
    checked = check_only_frame(write_capture(tmp_path, label))
    assert isinstance(checked, FrameProblem)
    assert checked.kind == "without_image"
    assert checked.reason == f"{RUN_ID}/frame_00000: the label says that no image was taken"


def test_an_image_at_the_run_root_is_found(tmp_path: Path) -> None:
    run = write_capture(tmp_path, older_label(image="img1.png"))
    (run / "images/frame_00000.png").rename(run / "img1.png")
    assert usable_frame(run).size_wh == (640, 360)
