import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from haustra.core.detections import Detections, Slots
from haustra.core.letterbox import PAD_VALUE
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.frames import CaptureFrames, FrameWithPixels
from haustra.evaluation.metrics import average_precision, to_coco
from haustra.evaluation.shrunk_tier import shrink, shrunk_tier
from haustra.evaluation.size_tier import SIZE_LIMITS, size_tier
from haustra.inference.detector import Detector
from scored_boxes import SIZE_WH, found, frame, random_scene, truth_of


def enlarged(image: Detections, factor: int) -> Detections:
    """Return the same boxes in a picture of more pixels."""
    width, height = image.image_size_wh
    size_wh = (factor * width, factor * height)
    return replace(image, boxes_px=image.boxes_px * factor, image_size_wh=size_wh)


@pytest.mark.parametrize("seed", range(10))
def test_each_size_scores_as_the_reference_evaluator_does(seed: int) -> None:
    truths, predictions = random_scene(seed)
    ground_truth, detections = to_coco(truths, predictions)
    if not ground_truth["annotations"] or not detections:
        pytest.skip("the reference refuses a scene without boxes")
    picture_px = SIZE_WH[0] * SIZE_WH[1]
    with contextlib.redirect_stdout(io.StringIO()):
        reference_truth = COCO()
        reference_truth.dataset = ground_truth
        reference_truth.createIndex()
        reference = COCOeval(reference_truth, reference_truth.loadRes(detections), "bbox")
        squares = [picture_px * limit**2 for limit in SIZE_LIMITS]
        reference.params.areaRng = [list(pair) for pair in pairwise(squares)]
        reference.params.areaRngLbl = [str(square) for square in squares[1:]]
        reference.evaluate()
        reference.accumulate()
    expected = reference.eval["precision"][:, :, 0, :, -1].mean(axis=1)
    scores = size_tier(truths, predictions, threshold=0.3)
    assert sum(score.num_truths for score in scores) == sum(map(len, truths))
    for number, score in enumerate(scores):
        if score.num_truths:
            assert score.ap50 == pytest.approx(expected[0, number], abs=1e-9)
            assert score.ap75 == pytest.approx(expected[5, number], abs=1e-9)
            assert score.ap50_95 == pytest.approx(expected[:, number].mean(), abs=1e-9)
        else:
            assert score.recall is score.ap50 is score.ap75 is score.ap50_95 is None


def test_the_size_of_a_polyp_does_not_depend_on_the_resolution() -> None:
    truths, predictions = random_scene(3)
    scores = size_tier(truths, predictions, threshold=0.3)
    mixed = size_tier(
        [enlarged(image, 1 + number % 3) for number, image in enumerate(truths)],
        [enlarged(image, 1 + number % 3) for number, image in enumerate(predictions)],
        threshold=0.3,
    )
    assert [score.num_truths for score in scores] == [20, 29, 0, 0]
    for score, other in zip(scores, mixed, strict=True):
        assert (other.num_truths, other.recall) == (score.num_truths, score.recall)
        assert other.ap50_95 == pytest.approx(score.ap50_95)


def test_sizes_and_recall_as_counted_by_hand() -> None:
    # Sizes of 0.1, 0.26, 0.51 and 1.
    side = (200 * 150) ** 0.5
    tenth = (0.0, 0.0, 0.1 * side, 0.1 * side)
    quarter = (50.0, 0.0, 50 + 0.26 * side, 0.26 * side)
    half = (0.0, 50.0, 0.51 * side, 50 + 0.51 * side)
    truths = [truth_of(tenth, quarter, half), truth_of((0, 0, 200, 150))]
    predictions = [found((0.9, quarter), (0.8, half), (0.2, tenth)), found((0.9, (0, 0, 200, 150)))]
    scores = size_tier(truths, predictions, threshold=0.3)
    assert [score.num_truths for score in scores] == [1, 0, 1, 2]
    assert [score.recall for score in scores] == [0.0, None, 1.0, 1.0]
    assert [score.ap50 for score in scores] == [1.0, None, 1.0, 1.0]


def test_no_label_and_no_detection_have_no_size() -> None:
    empty = size_tier([truth_of()], [found((0.9, (1, 1, 5, 5)))], threshold=0.3)
    assert all(score.num_truths == 0 and score.ap50 is None for score in empty)
    missed = size_tier([truth_of((0, 0, 50, 50))], [found()], threshold=0.3)
    assert [score.ap50 for score in missed] == [None, None, 0.0, None]
    assert average_precision([truth_of((0, 0, 50, 50))], [found()]).ap50 == 0


def test_a_shrunk_picture_lies_in_the_middle_with_its_boxes() -> None:
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[20:60, 40:100] = 255
    shrunk, boxes_px = shrink(image, np.array([[40.0, 20, 100, 60]]), share=0.5)
    assert boxes_px[0] == pytest.approx([70, 35, 100, 55])
    assert (shrunk[35:55, 70:100] == 255).all()
    inner = shrunk[25:75, 50:150]
    assert (inner == 255).all(axis=2).sum() == 20 * 30
    assert (inner == 0).all(axis=2).sum() == 50 * 100 - 20 * 30
    assert (shrunk[:25] == PAD_VALUE).all()
    assert (shrunk[:, 150:] == PAD_VALUE).all()


class WhitePolyp(CaptureFrames):
    """A source with one frame, whose polyp is white."""

    def __len__(self) -> int:
        return 1

    def read(self, sample_ids: Sequence[str] | None = None) -> Iterator[FrameWithPixels]:
        image = np.zeros((64, 64, 3), dtype=np.uint8)
        image[26:38, 26:38] = 255
        yield frame(0, truth_of((81, 56, 119, 94))), image


def test_a_detector_that_only_sees_large_polyps_loses_those_of_shrunk_pictures() -> None:
    def predict(images: NDArray[np.uint8]) -> Slots:
        boxes = np.zeros((len(images), 1, 4), dtype=np.float32)
        for row, image in enumerate(images):
            y, x = np.nonzero(image[..., 0] > 180)
            if len(x) >= 30:
                boxes[row] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 64
        return boxes, np.full((len(images), 1), 0.9, dtype=np.float32)

    detector = Detector(predict_slots=predict, kind="tiny", caption="white", input_size_wh=(64, 64))
    source = WhitePolyp(
        name="one",
        frames=[],
        frame_rates_hz={},
        target_size_wh=(64, 64),
        resize_mode="letterbox",
    )
    scores = shrunk_tier(source, detector, point=OperatingPoint(objectness=0.5))
    assert [score.share for score in scores] == [1.0, 0.5, 0.35]
    assert [score.metrics.at_threshold.recall for score in scores] == [1.0, 1.0, 0.0]
    assert [score.metrics.average_precision.ap50 for score in scores] == [1.0, 1.0, 0.0]
