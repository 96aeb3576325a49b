import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haustra.core.detections import Detections, PredictSlots, Slots
from haustra.core.letterbox import ResizeMode
from haustra.core.operating_point import OperatingPoint
from haustra.evaluate.config import EvalConfig
from haustra.evaluate.evaluation import Evaluation
from haustra.evaluate.metrics import box_metrics
from haustra.evaluate.report import spread_evenly, worst_mistakes
from haustra.evaluate.stage import EvaluationResult, evaluate_detector
from haustra.warehouse.reading import open_split
from scenes import write_warehouse

SIZE_WH = (100, 100)


def detections(*boxes_and_scores: tuple[list[float], float]) -> Detections:
    boxes = np.array([box for box, _ in boxes_and_scores], dtype=np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in boxes_and_scores], dtype=np.float64)
    return Detections(boxes_px=boxes, scores=scores, image_size_wh=SIZE_WH)


SMALL, LARGE = [10.0, 10.0, 20.0, 20.0], [30.0, 30.0, 80.0, 80.0]


def test_mistakes_come_worst_first_and_duplicates_are_none() -> None:
    pairs = [
        (detections((SMALL, 1)), detections((SMALL, 0.9), (SMALL, 0.8))),  # found, twice
        (detections((SMALL, 1)), detections()),
        (detections((SMALL, 1), (LARGE, 1)), detections((SMALL, 0.9))),
        (detections(), detections((SMALL, 0.5))),
        (detections(), detections((SMALL, 0.95), (LARGE, 0.1))),
        (detections(), detections((LARGE, 0.2))),  # below the threshold
    ]
    truths, predictions = map(list, zip(*pairs, strict=True))
    evaluation = Evaluation(
        metrics=box_metrics(truths, predictions, threshold=0.3),
        truths=truths,
        predictions=predictions,
    )
    missed, alarmed = worst_mistakes(evaluation)
    assert missed.tolist() == [2, 1]
    assert alarmed.tolist() == [4, 3]
    assert worst_mistakes(evaluation, count=1)[0].tolist() == [2]
    assert spread_evenly(evaluation, count=3).tolist() == [0, 2, 5]
    assert spread_evenly(evaluation, count=99).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("report"))


def test_the_report_shows_mistakes_only_where_there_are_some(
    tmp_path: Path, manifest: Path
) -> None:
    split = open_split(manifest, split="train")
    truth = split.gather(np.arange(len(split)))

    def right(images: np.ndarray) -> Slots:
        return truth.boxes_xyxy, truth.mask.astype(np.float32)

    def wrong(images: np.ndarray) -> Slots:
        boxes = np.zeros_like(truth.boxes_xyxy)
        boxes[:, 0] = [0, 0, 0.04, 0.04]
        scores = np.zeros(boxes.shape[:2], dtype=np.float32)
        scores[:, 0] = 1
        return boxes, scores

    names = {}
    for predict in (wrong, right):  # into the same folder: what is no longer true goes
        result = evaluate(manifest, predict, report=tmp_path / "report", split="train")
        names[predict] = {path.name for path in (tmp_path / "report").iterdir()}
        assert {path.name for path in result.report} == names[predict]
        page = (tmp_path / "report" / "report.html").read_text()
        assert page.count("<figure>") == (16 if predict is wrong else 0)
    always = {"report.html", "report.json", "curves.png", "clinical.png", "gallery.png"}
    assert names[wrong] == always | {"misses.png", "false_alarms.png"}
    assert names[right] == always


class StubDetector:
    """A function in place of a network, with what an evaluation asks of a detector."""

    caption = "a detector"
    input_size_wh = (64, 64)
    resize_mode: ResizeMode = "letterbox"
    history: list[dict[str, Any]] = []  # noqa: RUF012
    warehouse_version = None
    training_groups: tuple[str, ...] = ()

    def __init__(self, predict_slots: PredictSlots) -> None:
        self.predict_slots = predict_slots
        self.operating_point = OperatingPoint()

    def store_operating_point(self, point: OperatingPoint) -> None:
        self.operating_point = point


def evaluate(manifest: Path, predict: PredictSlots, **settings: Any) -> EvaluationResult:
    weights = manifest.with_name("weights")
    weights.write_text("a function")
    return evaluate_detector(
        EvalConfig(manifest=manifest, detector_weights=weights, **settings),
        open_detector=lambda path: StubDetector(predict),
    )


def test_the_report_needs_no_other_file_and_shows_the_intervals(
    tmp_path: Path, manifest: Path
) -> None:
    split = open_split(manifest, split="train")
    truth = split.gather(np.arange(len(split)))
    result = evaluate(
        manifest,
        lambda images: (truth.boxes_xyxy, truth.mask.astype(np.float32)),
        report=tmp_path,
        split="train",
        bootstrap=10,
    )
    assert result.intervals is not None
    assert result.intervals.num_groups == split.manifest.splits["train"].groups
    page = (tmp_path / "report.html").read_text()
    assert "<tr><th>AP50</th><td>1.0000</td><td>[1.0000, 1.0000]</td></tr>" in page
    assert f"10 resamples of {result.intervals.num_groups} groups" in page
    sources = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["bootstrap"]["ap50"] == pytest.approx([1, 1])
    assert stored["settings"]["manifest"] == str(manifest)
    assert stored["environment"]["python"]
