from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core.detections import Slots
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.degrade import (
    KINDS,
    degrade_boxes,
    degrade_image,
    draw_degradations,
    measure_degradations,
)
from haustra.evaluation.frames import CaptureFrames, FrameWithPixels, open_captures
from haustra.inference.detector import Detector
from scenes import write_captures
from scored_boxes import frame, truth_of


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    folder = tmp_path_factory.mktemp("captures")
    write_captures(folder, num_runs=1, frames_per_run=2, size_wh=(128, 96))
    source = open_captures(folder, target_size_wh=(128, 128), resize_mode="letterbox")
    return [pixels for _, pixels in source.read()][1]


def change(image: NDArray[np.uint8], *, kind: str, severity: int) -> float:
    """Return how far an image is from what it was, in the mean over a few names."""
    distances = []
    for name in "abcdef":
        degraded = degrade_image(image, kind=kind, severity=severity, name=name)
        assert degraded.shape == image.shape
        assert degraded.dtype == np.uint8
        distances.append(np.abs(degraded.astype(float) - image).mean())
    return float(np.mean(distances))


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_changes_more_than_the_one_before(
    image: NDArray[np.uint8], kind: str
) -> None:
    first, second, third = (change(image, kind=kind, severity=s) for s in (1, 2, 3))
    assert 0 < first < second < third


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_decides_what_is_random(image: NDArray[np.uint8], kind: str) -> None:
    before = image.copy()
    a, again, b = (degrade_image(image, kind=kind, severity=2, name=n) for n in ("a", "a", "b"))
    assert (image == before).all()
    assert (a == again).all()
    is_random = kind in {"blur", "glare", "bubbles", "noise", "text"}
    assert (a != b).any() == is_random


def test_degradations_change_sharpness_and_brightness_as_named(image: NDArray[np.uint8]) -> None:
    def sharpness(degraded: NDArray[np.uint8]) -> float:
        return float(cv2.Laplacian(degraded, cv2.CV_64F).var())

    def with_(kind: str) -> NDArray[np.uint8]:
        return degrade_image(image, kind=kind, severity=3, name="a")

    assert sharpness(with_("blur")) < sharpness(image) / 4 < sharpness(with_("noise")) / 4
    assert with_("under-exposure").mean() < image.mean() < with_("over-exposure").mean()
    assert (with_("glare") >= image).all()


def test_a_crop_moves_boxes_as_computed_by_hand() -> None:
    # 0.7 of 100 x 200 is left: columns 15 to 85, rows 30 to 170.
    boxes = np.array([[15.0, 30, 85, 170], [0, 0, 15, 30], [5, 100, 20, 110], [50, 100, 60, 110]])
    moved = degrade_boxes(boxes, kind="crop", severity=2, size_wh=(100, 200))
    assert moved[0] == pytest.approx([0, 0, 100, 200])
    assert moved[1] == pytest.approx([0, 100, 5 / 0.7, 80 / 0.7])  # a third of it is left
    assert moved[2] == pytest.approx([35 / 0.7, 100, 45 / 0.7, 80 / 0.7])
    assert len(moved) == 3  # the one in the corner is gone
    for kind in KINDS:
        if kind != "crop":
            assert degrade_boxes(boxes, kind=kind, severity=3, size_wh=(100, 200)) is boxes


class OneFrame(CaptureFrames):
    """A source with one frame whose polyp fills the middle of a 200 x 150 image."""

    def __len__(self) -> int:
        return 1

    def read(self, sample_ids: Sequence[str] | None = None) -> Iterator[FrameWithPixels]:
        yield frame(0, truth_of((80, 60, 120, 90))), np.full((64, 64, 3), 128, dtype=np.uint8)


def test_recall_of_a_detector_that_only_sees_bright_images() -> None:
    def predict(images: NDArray[np.uint8]) -> Slots:
        # Of 200 x 150 in 64 x 64: 0.4 to 0.6 across, and with the bars 0.425 to 0.575 down.
        boxes = np.tile(np.array([[0.4, 0.425, 0.6, 0.575]], np.float32), (len(images), 1, 1))
        is_bright = images.mean(axis=(1, 2, 3)) >= 128
        return boxes, np.where(is_bright, 0.9, 0.1).astype(np.float32)[:, None]

    detector = Detector(
        predict_slots=predict, kind="tiny", caption="bright", input_size_wh=(64, 64)
    )
    point = OperatingPoint(objectness=0.5)
    source = OneFrame(
        name="one",
        frames=[],
        frame_rates_hz={},
        target_size_wh=(64, 64),
        resize_mode="letterbox",
    )
    result = measure_degradations(source, detector, point=point)
    recall = {(score.kind, score.severity): score.recall for score in result.scores}
    assert result.clean.recall == 1.0
    assert len(recall) == 27
    assert all(recall["over-exposure", severity] == 1.0 for severity in (1, 2, 3))
    assert all(recall["under-exposure", severity] == 0.0 for severity in (1, 2, 3))
    # The polyp grows with the crop, and the box of 0.55 ** 2 of its size does not match it.
    assert (recall["crop", 1], recall["crop", 3]) == (1.0, 0.0)
    assert result.worst is not None
    assert result.worst.recall == 0.0
    assert all(score.num_truths == 1 for score in result.scores)


def test_the_sheet_shows_every_degradation(image: NDArray[np.uint8], tmp_path: Path) -> None:
    sheet = draw_degradations(image, name="a", side_px=100)
    assert sheet.shape == (3 * 100, len(KINDS) * 100, 3)
