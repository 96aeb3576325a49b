"""The operating point: fitted on some frames, stored, and read by those who show boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import true_colon

from checkpoints import write_lively_checkpoint
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.fitting import best_f1_threshold, fit_operating_point
from haustra.evaluation.frames import open_captures
from haustra.evaluation.metrics import box_metrics, threshold_metrics
from haustra.inference.checkpoint_detector import store_operating_point
from haustra.inference.detector import open_detector
from haustra.models.checkpoint import read_checkpoint, read_header
from haustra.models.tensor_file import weights_digest
from scenes import write_captures, write_warehouse
from scored_boxes import found, frame, random_scene, truth_of

BOX, FAR = (10, 10, 30, 30), (100, 100, 140, 140)


def evaluation_of(truths: list[Any], predictions: list[Any]) -> Evaluation:
    return Evaluation(
        metrics=box_metrics(truths, predictions, threshold=0.3),
        truths=truths,
        predictions=predictions,
        frames=[frame(n, truth) for n, truth in enumerate(truths)],
    )


def fit(evaluation: Evaluation, **changes: Any) -> OperatingPoint:
    settings: dict[str, Any] = {
        "rule": "fpr",
        "target_fpr": 0.25,
        "iou": 0.5,
        "name": "some frames",
        "frame_rates_hz": {},
    }
    return fit_operating_point(evaluation, **(settings | changes))


def test_the_threshold_flags_the_wanted_share_of_clean_frames() -> None:
    truths = [truth_of()] * 8 + [truth_of(BOX)] * 2
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.75, 0.65]
    predictions = [found((s, FAR)) for s in scores[:8]] + [found((s, BOX)) for s in scores[8:]]
    point = fit(evaluation_of(truths, predictions))
    assert point.objectness == 0.7  # flags 0.7 and 0.8: two of eight
    assert (point.hold_off_frames, point.hysteresis) == (0, None)
    assert point.fitted == {
        "rule": "fpr",
        "target_fpr": 0.25,
        "achieved_fpr": 0.25,
        "achieved_sensitivity": 0.5,
        "num_lesion_frames": 2,
        "num_clean_frames": 8,
        "fitted_on": "some frames",
    }


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_equals_true_colons(seed: int) -> None:
    truths, predictions = random_scene(seed)
    truths += [truth_of()] * 30
    predictions += [random_scene(100 + seed)[1][0]] * 30
    labels: dict[str, Any] = {"images": [], "annotations": []}
    results = []
    for i, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        labels["images"].append({"id": i, "file_name": f"v_{i}.png"})
        for x0, y0, x1, y1 in truth.boxes_px.tolist():
            labels["annotations"].append({"image_id": i, "bbox": [x0, y0, x1 - x0, y1 - y0]})
        for (x0, y0, x1, y1), score in zip(
            prediction.boxes_px.tolist(), prediction.scores.tolist(), strict=True
        ):
            results.append(
                {"image_id": f"v_{i}", "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            )
    evaluator = true_colon.create_evaluator(canonicalizer="stem_int_suffix")
    wanted = evaluator.match_operating_point(labels, results, target_fpr=0.25)
    if wanted.threshold <= 1:
        assert fit(evaluation_of(truths, predictions)).objectness == wanted.threshold


def test_too_few_clean_frames_are_an_error() -> None:
    with pytest.raises(HaustraError) as error:
        fit(evaluation_of([truth_of(BOX)], [found((0.9, BOX))]), target_fpr=0.045)
    assert str(error.value) == (
        "fit_fpr=0.045: some frames has 0 clean frames, and such a rate needs at least 23; use "
        "frames with more, or pass fit_by='f1'"
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_best_f1_is_the_best_of_all_thresholds(seed: int) -> None:
    truths, predictions = random_scene(seed)
    scores = np.unique(np.concatenate([p.scores for p in predictions]))
    try:
        threshold, f1 = best_f1_threshold(truths, predictions)
    except HaustraError:
        assert all(threshold_metrics(truths, predictions, threshold=s).f1 == 0 for s in scores)
        return
    f1s = [threshold_metrics(truths, predictions, threshold=s).f1 or 0.0 for s in scores]
    assert f1 == pytest.approx(max(f1s))
    assert threshold_metrics(truths, predictions, threshold=threshold).f1 == pytest.approx(f1)


def test_hold_off_is_fitted_where_it_saves_alarms_and_loses_no_lesion() -> None:
    def pattern(text: str) -> Evaluation:
        boxes = {"x": (0.9, FAR), "h": (0.9, BOX), ".": (0.1, FAR), "?": (0.3, FAR)}
        truths = [truth_of(BOX) if c == "h" else truth_of() for c in text]
        return evaluation_of(truths, [found(boxes[c]) for c in text])

    def hold_off(text: str) -> int:
        point = fit(pattern(text), rule="f1", frame_rates_hz={"run": 10.0})
        return point.hold_off_frames

    clean = "." * 20
    assert hold_off(clean + "hhhhhhhhhh" + clean) == 0  # nothing to save
    assert hold_off("xx" + clean + "hhhhhhhhhh") == 3
    assert hold_off("xx" + clean + "hhh" + clean) == 0  # the lesion would be lost
    # Six frames are 0.6 s at 10 Hz: too late.
    assert hold_off("xxxx" + clean + "hhhhhhhhhhhhhhhhhhhhhhhhhh") == 0


def state_frame_rate(run: Path) -> None:
    """Make a run one whose frames are known to be in time order."""
    path = run / "run_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"frame_rate_hz": 10.0}))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warehouse")
    return write_warehouse(folder, num_runs=12)


def test_a_fitted_point_is_stored_and_read_by_eval_and_infer(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "detector.bin"
    model = write_lively_checkpoint(weights, manifest=manifest)
    captures = write_captures(tmp_path / "captures", num_runs=3, frames_per_run=10, seed=4)[
        0
    ].parent
    before = weights_digest(model.state_dict())
    main(
        [
            "eval",
            "--captures",
            str(captures),
            "--detector-weights",
            str(weights),
            "--fit",
            "--fit-fpr",
            "0.4",
            "--json",
        ]
    )
    summary = json.loads(capsys.readouterr().out)
    point = read_header(weights).operating_point
    assert weights_digest(read_checkpoint(weights)[1].state_dict()) == before
    assert point.fitted is not None
    assert point.to_json() == summary["operating_point"]
    assert summary["threshold_from"] == f"fitted on {captures}"
    assert summary["at_threshold"]["threshold"] == point.objectness
    main(["eval", "--manifest", str(manifest), "--detector-weights", str(weights), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["at_threshold"]["threshold"] == point.objectness
    assert again["threshold_from"] == f"fitted on {captures}"
    assert open_detector(weights).operating_point == point
    main(
        [
            "infer",
            "--detector-weights",
            str(weights),
            "--image",
            str(captures / "run_000"),
            "--output-root",
            str(tmp_path / "boxed"),
            "--json",
        ]
    )
    assert json.loads(capsys.readouterr().out)["operating_point"] == point.to_json()


def test_infer_holds_back_the_first_frames_of_a_run(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "detector.bin"
    write_lively_checkpoint(weights, manifest=manifest)
    store_operating_point(weights, OperatingPoint(objectness=0.0, hold_off_frames=2))
    (run, *_) = write_captures(tmp_path / "captures", num_runs=1, frames_per_run=5)
    state_frame_rate(run)

    def boxes_of(*flags: str) -> list[int]:
        main(
            [
                "infer",
                "--detector-weights",
                str(weights),
                "--image",
                str(run),
                "--output-root",
                str(tmp_path / "boxed"),
                "--json",
                *flags,
            ]
        )
        return [len(image["scores"]) for image in json.loads(capsys.readouterr().out)["images"]]

    assert boxes_of() == [0, 0, 1, 1, 1]
    assert boxes_of("--infer-hold-off", "0") == [1] * 5
    main(
        [
            "infer",
            "--detector-weights",
            str(weights),
            "--image",
            str(run),
            "--output-root",
            str(tmp_path / "boxed"),
        ]
    )
    assert capsys.readouterr().out.splitlines()[0] == (
        "frames in time: boxes from 0, kept on from 0, the first 2 frames of each activation held "
        "back (--infer-hold-off 0 shows them)"
    )


def test_infer_begins_the_hold_off_again_after_a_cut(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "detector.bin"
    write_lively_checkpoint(weights, manifest=manifest)
    store_operating_point(weights, OperatingPoint(objectness=0.0, hold_off_frames=1))
    (run, *_) = write_captures(tmp_path / "captures", num_runs=1, frames_per_run=5)
    state_frame_rate(run)
    for path, seconds in zip(
        sorted((run / "labels").iterdir()), (0, 0.1, 60, 61, 61.1), strict=True
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sim_time": seconds}))
    command = ["infer", "--detector-weights", str(weights), "--image", str(run), "--json"]
    main([*command, "--output-root", str(tmp_path / "boxed")])
    images = json.loads(capsys.readouterr().out)["images"]
    assert [len(image["scores"]) for image in images] == [0, 1, 0, 1, 1]


def test_an_onnx_model_and_stored_predictions_cannot_be_fitted(tmp_path: Path) -> None:
    from haustra.evaluation.config import EvalConfig

    with pytest.raises(HaustraError) as error:
        EvalConfig(captures=tmp_path, detector_weights=tmp_path / "p.json", fit=True)
    assert str(error.value) == (
        f"fit with stored predictions {tmp_path}/p.json: expected a checkpoint, since they have "
        "no header"
    )


def test_captures_are_read_in_the_order_of_their_frames(tmp_path: Path) -> None:
    write_captures(tmp_path, num_runs=2, frames_per_run=3)
    (tmp_path / "run_001" / "images" / "frame_00001.png").unlink()
    source = open_captures(tmp_path, target_size_wh=(64, 64), resize_mode="letterbox")
    frames = [frame for frame, pixels in source.read() if pixels.shape == (64, 64, 3)]
    assert [(f.run_id, f.number) for f in frames] == [
        ("r000", 0),
        ("r000", 1),
        ("r000", 2),
        ("r001", 0),
        ("r001", 2),
    ]
    assert source.problems == ["r001/images/frame_00001.png does not exist"]
    lesions = frames[1].lesions
    assert lesions[0] is not None
    assert lesions[0].lesion_id == "r000/disc_0"
    assert len(lesions) == len(frames[1].truth)
    (one,) = [frame for frame, _ in source.read(["r001/frame_00002"])]
    assert one.number == 2
    assert source.problems == ["r001/images/frame_00001.png does not exist"]
