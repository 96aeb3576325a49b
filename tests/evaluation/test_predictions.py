import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.cli.main import main
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.frames import EvalFrame
from haustra.evaluation.predictions import StoredPredictions, read_predictions, write_predictions
from scenes import write_warehouse
from scored_boxes import frame, random_scene, truth_of


def find_all(stored: StoredPredictions, frames: list[EvalFrame]) -> list[Detections]:
    return [stored.find(each, iou=1.0) for each in frames]


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    truths, predictions = random_scene(2)
    frames = [frame(n, truth) for n, truth in enumerate(truths)]
    point = OperatingPoint(objectness=0.4, hold_off_frames=3, hysteresis=0.2, fitted={"rule": "f1"})
    path = tmp_path / "p.json"
    write_predictions(
        path, detector="a net", operating_point=point, frames=frames, predictions=predictions
    )
    stored = read_predictions(path)
    assert (stored.caption, stored.operating_point) == ("a net", point)
    for wanted, got in zip(predictions, find_all(stored, frames), strict=True):
        assert got.scores.tolist() == wanted.scores.tolist()
        inside = np.clip(wanted.boxes_px, 0, np.tile(wanted.image_size_wh, 2))
        assert got.boxes_px.tolist() == inside.tolist()
    with pytest.raises(HaustraError) as error:
        stored.find(frame(999, truth_of()), iou=1.0)
    assert str(error.value) == (
        f"{path} has no predictions of 'run/frame_00999'; expected those of the frames that are "
        "measured; make them with `haustra eval --predictions-out`"
    )


def test_coco_results_are_read_and_frames_without_any_had_none(tmp_path: Path) -> None:
    path = tmp_path / "yolo.json"
    entries = [
        {"image_id": "run/frame_00001", "bbox": [10, 20, 30, 40], "score": 0.2, "category_id": 1},
        {"image_id": "run/frame_00001", "bbox": [190, 140, 30, 40], "score": 0.9},
    ]
    path.write_text(json.dumps(entries))
    stored = read_predictions(path)
    first, second = find_all(stored, [frame(0, truth_of()), frame(1, truth_of())])
    assert len(first) == 0
    assert second.scores.tolist() == [0.9, 0.2]
    assert second.boxes_px.tolist() == [[190, 140, 200, 150], [10, 20, 40, 60]]
    with pytest.raises(HaustraError) as error:
        stored.check_frames(["run/frame_00000"])
    assert str(error.value) == (
        f"{path}: image_id 'run/frame_00001' is not among the 1 frames that are measured; "
        "expected ids such as 'run/frame_00000'"
    )


def entry(**changes: Any) -> dict[str, Any]:
    return {"image_id": "a/b", "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"format": "other"},
            "{path} holds no predictions; expected a file of `haustra eval --predictions-out` or a "
            "list of COCO results",
        ),
        (
            {"format": "haustra-predictions", "format_version": 9},
            "{path} has format version 9; this haustra reads version 1",
        ),
        (
            {"format": "haustra-predictions", "format_version": 1},
            "{path} is damaged: KeyError('detector')",
        ),
        (
            [entry(), {"image_id": "a/b"}],
            "{path}: entry 1: expected a COCO result with image_id, bbox and score",
        ),
        (
            [entry(image_id=7)],
            "{path}: entry 0: image_id 7: expected a frame's id, run_id/frame",
        ),
        ([entry(score=1.5)], "{path}: entry 0: score 1.5: expected a number from 0 to 1"),
        ([entry(score=True)], "{path}: entry 0: score True: expected a number from 0 to 1"),
        (
            [entry(bbox=[1, 2, -3, 4])],
            "{path}: entry 0: box [1, 2, -2, 6]: expected x0,y0,x1,y1 with x0 <= x1 and y0 <= y1",
        ),
        (
            [entry(bbox=[1, 2, 3])],
            "{path}: entry 0: box [1, 2, 3]: expected x0,y0,x1,y1 with x0 <= x1 and y0 <= y1",
        ),
        (
            [entry(bbox=[1, 2, 3, float("nan")])],
            "{path}: entry 0: box [1, 2, 4, nan]: expected x0,y0,x1,y1 with x0 <= x1 and y0 <= y1",
        ),
    ],
)
def test_what_is_no_prediction_is_named(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(value))
    with pytest.raises(HaustraError) as error:
        read_predictions(path)
    assert str(error.value) == message.format(path=path)


def test_stored_predictions_measure_as_the_detector_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path)
    weights, stored = tmp_path / "detector.bin", tmp_path / "found.json"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    measure = ["eval", "--manifest", str(manifest), "--split", "train", "--json"]
    main([*measure, "--detector-weights", str(weights), "--predictions-out", str(stored)])
    first = json.loads(capsys.readouterr().out)
    main([*measure, "--detector-weights", str(stored), "--report", str(tmp_path / "report")])
    second = json.loads(capsys.readouterr().out)
    for key in ("average_precision", "at_threshold", "frames", "froc", "calibration", "model"):
        assert first[key] == second[key]
    main([*measure[:-1], "--compare", str(weights), str(stored), "--bootstrap", "10"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A {weights}", f"B {stored}"]
    assert "+0.000 to +0.000" in lines[3]
