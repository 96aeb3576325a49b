"""`evaluate_detector` as a library: what it opens, what it applies, what it returns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.core.detections import Slots
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.stage import compare_weights, evaluate_detector
from haustra.inference.config import InferConfig
from haustra.inference.detector import Detector, open_detector
from haustra.inference.pictures import infer_pictures
from haustra.models.checkpoint import read_header
from scenes import write_warehouse


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("stage"), num_runs=6)


@pytest.fixture
def weights(tmp_path: Path, manifest: Path) -> Path:
    path = tmp_path / "bigdet.bin"
    write_lively_checkpoint(path, manifest=manifest, kind="big")
    return path


def test_model_and_backend_of_the_settings_act_in_the_library(
    manifest: Path, weights: Path
) -> None:
    def settings(**changes: Any) -> EvalConfig:
        values: dict[str, Any] = {"manifest": str(manifest), "detector_weights": str(weights)}
        return EvalConfig(**(values | {"bootstrap": 1} | changes))

    both: dict[str, Any] = {"detector_weights": None, "compare": (str(weights), str(weights))}
    for changes, message in (({"model": "tiny"}, "holds bigdet"), ({"backend": "mps"}, "mps")):
        with pytest.raises(HaustraError, match=message):
            evaluate_detector(settings(**changes))
        with pytest.raises(HaustraError, match=message):
            compare_weights(settings(**changes, **both))
    result = evaluate_detector(settings(backend="ndarray", model="big"))
    assert result.summary["backend"].startswith("backend cpu: CPU")


def test_an_open_detector_is_measured_like_its_file(manifest: Path, weights: Path) -> None:
    from_file = evaluate_detector(
        EvalConfig(manifest=manifest, detector_weights=weights, bootstrap=0)
    )
    config = EvalConfig(manifest=manifest, bootstrap=0)
    opened = evaluate_detector(config, detector=open_detector(weights))
    for key in ("average_precision", "at_threshold", "checkpoint", "checkpoint_sha256", "backend"):
        assert opened.summary[key] == from_file.summary[key]


def test_settings_that_an_open_detector_makes_void_are_refused(
    manifest: Path, weights: Path
) -> None:
    config = EvalConfig(manifest=manifest, backend="cuda")
    with pytest.raises(HaustraError) as caught:
        evaluate_detector(config, detector=open_detector(weights))
    assert str(caught.value) == (
        "backend='cuda' with an open detector: expected one of them; leave the setting out, or "
        "pass no detector"
    )
    with pytest.raises(HaustraError) as caught:
        evaluate_detector(EvalConfig(manifest=manifest))
    assert str(caught.value) == (
        "expected one of detector_weights (a file) and compare (two of them): what to measure"
    )


def test_the_boxes_that_are_measured_are_those_that_infer_draws(
    tmp_path: Path, manifest: Path, weights: Path
) -> None:
    counts = {}
    images = sorted((manifest.parents[2] / "captures").glob("run_*/images/*.png"))
    for iou in (0.1, 1.0):
        flags: dict[str, Any] = {"infer_iou_thresh": iou, "infer_obj_thresh": 0.0}
        measured = evaluate_detector(
            EvalConfig(
                manifest=manifest, split="train", detector_weights=weights, bootstrap=0, **flags
            )
        ).evaluation
        found = {
            frame.sample_id: prediction
            for frame, prediction in zip(measured.frames, measured.predictions, strict=True)
        }
        num_boxes = 0
        for image in images:
            result = infer_pictures(
                InferConfig(
                    image=image, detector_weights=weights, output_root=tmp_path / "out", **flags
                )
            )
            run = json.loads((image.parents[1] / "run_manifest.json").read_text())["run_id"]
            if (prediction := found.get(f"{run}/{image.stem}")) is not None:
                drawn = result.pictures[0].detections
                np.testing.assert_allclose(prediction.boxes_px, drawn.boxes_px, atol=1e-3)
                np.testing.assert_allclose(prediction.scores, drawn.scores, atol=1e-5)
                num_boxes += len(drawn)
        assert num_boxes
        counts[iou] = num_boxes
    assert counts[0.1] < counts[1.0]


def test_duplicates_are_counted_when_the_filter_is_off(manifest: Path) -> None:
    def twice(images: Any) -> Slots:
        boxes = np.tile(np.array([0.2, 0.2, 0.8, 0.8], np.float32), (len(images), 2, 1))
        return boxes, np.tile(np.array([0.9, 0.8], np.float32), (len(images), 1))

    detector = Detector(predict_slots=twice, kind="big", caption="twice", input_size_wh=(64, 64))
    num_boxes = []
    for iou in (None, 1.0):
        config = EvalConfig(manifest=manifest, bootstrap=0, infer_iou_thresh=iou)
        evaluation = evaluate_detector(config, detector=detector).evaluation
        num_boxes.append({len(prediction) for prediction in evaluation.predictions})
    assert num_boxes == [{1}, {2}]


def test_a_fitted_point_is_stored_in_the_detector_and_its_file(
    manifest: Path, weights: Path
) -> None:
    detector = open_detector(weights)
    config = EvalConfig(manifest=manifest, fit=True, fit_fpr=0.4, split="train", bootstrap=0)
    result = evaluate_detector(config, detector=detector)
    assert result.operating_point.fitted is not None
    assert detector.operating_point == result.operating_point
    assert read_header(weights).operating_point == result.operating_point


def test_an_onnx_model_cannot_be_fitted(manifest: Path) -> None:
    detector = Detector(
        predict_slots=lambda images: (images, images),  # type: ignore[arg-type, return-value]
        kind="big",
        caption="exported",
        input_size_wh=(64, 64),
        path=Path("c.onnx"),
    )
    with pytest.raises(HaustraError) as caught:
        evaluate_detector(EvalConfig(manifest=manifest, fit=True), detector=detector)
    assert str(caught.value) == (
        "fit=True with c.onnx: an ONNX model takes its operating point from its checkpoint; "
        "expected the checkpoint; fit that and export it again"
    )


def test_a_given_threshold_is_not_reported_as_fitted(
    manifest: Path, weights: Path, tmp_path: Path
) -> None:
    detector = open_detector(weights)
    detector.operating_point = OperatingPoint(
        objectness=0.4, hysteresis=0.2, fitted={"fitted_on": "val"}
    )
    config = EvalConfig(manifest=manifest, bootstrap=0, infer_obj_thresh=0.6)
    result = evaluate_detector(config, detector=detector)
    assert result.summary["operating_point"] == {"objectness": 0.6, "iou": 0.5}
    assert result.summary["threshold_from"] == "--infer-obj-thresh"
    kept = evaluate_detector(EvalConfig(manifest=manifest, bootstrap=0), detector=detector)
    assert kept.summary["threshold_from"] == "fitted on val"


def test_the_result_prints_what_a_person_asks_for(manifest: Path, weights: Path) -> None:
    config = EvalConfig(manifest=manifest, detector_weights=weights, bootstrap=0)
    result = evaluate_detector(config)
    lines = repr(result).splitlines()
    assert lines[0] == "EvaluationResult"
    assert [line.split()[0] for line in lines[1:6]] == [
        "detector",
        "images",
        "AP50",
        "threshold",
        "frames",
    ]
    assert "sensitivity" in lines[5]
    assert result.to_json() == result.summary | {"report": []}
