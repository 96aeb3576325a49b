"""The detector as a library offers it: calls, streams, representation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector, open_detector
from scenes import write_captures, write_warehouse
from viewing import bright_detector, picture, write_pictures, write_video


class FakePilImage:
    """The part of a PIL image that is used."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def convert(self, mode: str) -> "FakePilImage":
        assert mode == "RGB"
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.pixels, dtype=dtype)


def boxes_of(found: Detections) -> Any:
    return found.boxes_px.tolist()


def test_a_path_a_pil_image_and_an_array_give_the_same_detections(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", 0.6)
    path = folder / "000.png"
    detector, pixels = bright_detector(), read_image_rgb(path)
    wanted = [[20, 20, 36, 36]]
    for image in (str(path), path, FakePilImage(pixels), pixels):
        assert boxes_of(detector(image)) == wanted


def test_a_list_or_a_tuple_gives_a_list_also_of_different_sizes_and_many() -> None:
    detector = bright_detector()
    large = np.zeros((128, 128, 3), dtype=np.uint8)
    large[64:96, 64:96] = 200
    first, second = detector([picture(0.6), large])
    assert boxes_of(first) == [[20, 20, 36, 36]]
    assert boxes_of(second) == [[64, 64, 96, 96]]
    assert second.image_size_wh == (128, 128)
    assert detector([]) == []
    assert len(detector((picture(0.6),) * 70)) == 70


def test_a_call_uses_the_stored_operating_point() -> None:
    detector = bright_detector()
    assert len(detector(picture(0.4))) == 1
    detector.operating_point = OperatingPoint(objectness=0.5)
    assert len(detector(picture(0.4))) == 0
    assert len(detector.detect(picture(0.4))) == 0
    assert len(detector.detect(picture(0.4), objectness=0.3)) == 1


def test_overlaps_are_dropped_by_the_operating_point_and_by_request() -> None:
    def two_boxes(images: Any) -> Any:
        boxes = np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4]]])
        return boxes, np.array([[0.9, 0.8]])

    detector = Detector(predict_slots=two_boxes, kind="big", caption="two", input_size_wh=(64, 64))
    assert len(detector(picture(0.1))) == 1
    assert len(detector.detect(picture(0.1), iou=1.0)) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((8, 9, 3), dtype=np.float32),
            "an array float32 [8, 9, 3]: expected uint8 RGB [H,W,3]; values in 0..1 become it by "
            "(image * 255).round().astype(np.uint8)",
        ),
        (
            np.zeros((8, 9), dtype=np.uint8),
            "an array uint8 [8, 9]: expected uint8 RGB [H,W,3]; a grayscale image becomes it by "
            "np.dstack([image] * 3)",
        ),
        (
            np.zeros((2, 8, 9, 3), dtype=np.uint8),
            "an array uint8 [2, 8, 9, 3]: expected uint8 RGB [H,W,3]; pass several images as a "
            "list",
        ),
        (
            np.zeros((8, 9, 4), dtype=np.uint8),
            "an array uint8 [8, 9, 4]: expected uint8 RGB [H,W,3]",
        ),
        (
            np.zeros((0, 9, 3), dtype=np.uint8),
            "an array uint8 [0, 9, 3]: expected uint8 RGB [H,W,3]",
        ),
        (
            7,
            "an image of type int: expected a path, a PIL image or a uint8 RGB array [H,W,3]",
        ),
        ("none.png", "none.png cannot be read: No such file or directory; expected an image"),
    ],
)
def test_wrong_images_are_one_line(image: Any, message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        bright_detector()(image)
    assert str(caught.value) == message


def test_a_video_streams_its_frames_with_hold_off(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    detector = bright_detector()
    shown = list(detector.stream(tmp_path / "a.mp4"))
    assert len(shown) == 12
    assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame, _ in shown)
    first = next(i for i, (_, found) in enumerate(shown) if len(found))
    detector.operating_point = OperatingPoint(hold_off_frames=2)
    held = [len(found) for _, found in detector.stream(str(tmp_path / "a.mp4"))]
    assert held[first : first + 3] == [0, 0, 1]


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({"frame_rate_hz": 10.0}, [0, 0, 1, 1]),
        ({}, [1, 1, 1, 1]),
        ({"frame_rate_hz": 10.0, "simulation": {"preset": "still"}}, [1, 1, 1, 1]),
    ],
)
def test_hold_off_applies_to_runs_that_are_known_to_be_in_time_order(
    tmp_path: Path, stated: dict[str, Any], wanted: list[int]
) -> None:
    (run,) = write_captures(tmp_path, num_runs=1, frames_per_run=4)
    manifest = run / "run_manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | stated))
    detector = bright_detector()
    detector.operating_point = OperatingPoint(objectness=0.1, hold_off_frames=2)
    assert [len(found) for _, found in detector.stream(run)] == wanted


def test_a_cut_ends_an_activation_in_a_stream(tmp_path: Path) -> None:
    (run,) = write_captures(tmp_path, num_runs=1, frames_per_run=6)
    manifest = run / "run_manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"frame_rate_hz": 10.0}))
    for path, seconds in zip(
        sorted((run / "labels").iterdir()), (0, 1, 2, 50, 51, 52), strict=True
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sim_time": seconds / 10}))
    detector = bright_detector()
    detector.operating_point = OperatingPoint(objectness=0.1, hold_off_frames=2)
    assert [len(found) for _, found in detector.stream(run)] == [0, 0, 1, 0, 0, 1]


def test_a_folder_of_images_streams_without_hold_off(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", 0.6, 0.2, 0.6)
    detector = bright_detector()
    detector.operating_point = OperatingPoint(hold_off_frames=2)
    assert [len(found) for _, found in detector.stream(folder)] == [1, 0, 1]


def test_the_representation_names_what_a_person_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "bigdet.bin"
    write_lively_checkpoint(path, manifest=write_warehouse(tmp_path, num_runs=3), kind="big")
    detector = open_detector(str(path))
    assert repr(detector).splitlines()[:5] == [
        "Detector: bigdet",
        f"  file     {path}",
        "  input    64x64 letterbox",
        "  classes  polyp",
        "  shows    threshold 0.3 (the default, not fitted), overlap at most 0.5",
    ]
    assert "  runs on  backend cpu: CPU" in repr(detector)
    assert (detector.kind, detector.path) == ("big", path)


def test_the_representation_says_what_was_fitted() -> None:
    detector = bright_detector()
    detector.operating_point = OperatingPoint(
        objectness=0.412, hold_off_frames=3, hysteresis=0.2, fitted={"fitted_on": "val of v12"}
    )
    assert (
        "  shows    threshold 0.412 (fitted on val of v12), overlap at most 0.5, hold-off 3 "
        "frames, kept on from 0.2"
    ) in repr(detector)
