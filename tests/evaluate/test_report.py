import json
from pathlib import Path

import numpy as np
import pytest

from haustra.core.detections import Detections, Slots
from haustra.evaluate.bootstrap import bootstrap_intervals
from haustra.evaluate.evaluation import Evaluation, evaluate_split
from haustra.evaluate.metrics import box_metrics
from haustra.evaluate.report import spread_evenly, worst_mistakes, write_report
from haustra.warehouse.reading import Split, open_split
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
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return open_split(write_warehouse(tmp_path_factory.mktemp("report")), split="train")


def test_the_report_shows_mistakes_only_where_there_are_some(tmp_path: Path, split: Split) -> None:
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
        evaluation = evaluate_split(
            split, predict_slots=predict, threshold=0.3, batch_size=len(split)
        )
        summary = {
            "model": "a detector",
            "split": "train",
            "shuffle_labels_seed": None,
            "warehouse_version": split.manifest.version,
            "checkpoint": "none",
            **evaluation.metrics.to_json(),
            "bootstrap": None,
        }
        written = write_report(
            tmp_path, evaluation=evaluation, split=split, summary=summary, history=[]
        )
        names[predict] = {path.name for path in tmp_path.iterdir()}
        assert {path.name for path in written} == names[predict]
        page = (tmp_path / "report.html").read_text()
        assert ("misses.png" in page) is ("misses.png" in names[predict])
    always = {"report.html", "report.json", "curves.png", "gallery.png"}
    assert names[wrong] == always | {"misses.png", "false_alarms.png"}
    assert names[right] == always


def test_the_report_shows_the_intervals_beside_the_numbers(tmp_path: Path, split: Split) -> None:
    truth = split.gather(np.arange(len(split)))
    evaluation = evaluate_split(
        split,
        predict_slots=lambda images: (truth.boxes_xyxy, truth.mask.astype(np.float32)),
        threshold=0.3,
        batch_size=len(split),
    )
    intervals = bootstrap_intervals(
        evaluation.truths,
        evaluation.predictions,
        groups=split.group_ids(),
        threshold=0.3,
        num_resamples=10,
    )
    assert intervals.num_groups == split.manifest.splits["train"].groups
    summary = {
        "model": "a detector",
        "split": "train",
        "shuffle_labels_seed": None,
        "warehouse_version": split.manifest.version,
        "checkpoint": "none",
        **evaluation.metrics.to_json(),
        "bootstrap": intervals.to_json(),
    }
    write_report(tmp_path, evaluation=evaluation, split=split, summary=summary, history=[])
    page = (tmp_path / "report.html").read_text()
    assert "<tr><th>AP50</th><td>1.0000</td><td>[1.0000, 1.0000]</td></tr>" in page
    assert f"10 resamples of {intervals.num_groups} groups" in page
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["bootstrap"]["ap50"] == pytest.approx([1, 1])
