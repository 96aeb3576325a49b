"""Every training ends with an operating point that is fitted on held-out images without a polyp."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haustra.cli.main import main
from haustra.core.progress import SilentProgress
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.stage import evaluate_detector
from haustra.inference.detector import open_detector
from haustra.models.checkpoint import read_header
from haustra.training.config import TrainConfig
from haustra.training.loop import TrainResult, train_detector
from haustra.training.negatives import clean_frames
from scenes import write_warehouse


class Lines(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def train(manifest: Path, folder: Path, **changes: Any) -> tuple[TrainResult, str]:
    """Train, and return the result and the line about the operating point."""
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    lines = Lines()
    config = TrainConfig(
        manifest=manifest, checkpoint_out=folder / "detector.bin", **(settings | changes)
    )
    result = train_detector(config, progress=lines)
    [line] = [line for line in lines.lines if line.startswith("operating point")]
    return result, line


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


def test_the_threshold_flags_at_most_the_stated_share(tmp_path: Path, manifest: Path) -> None:
    result, line = train(manifest, tmp_path, model="big", fit_fpr=0.1)
    point = result.header.operating_point
    record = point.fitted
    assert record is not None
    assert record["rule"] == "fpr"
    assert record["target_fpr"] == 0.1
    assert 0 < record["achieved_fpr"] <= 0.1
    assert "48 simulated frames" in record["fitted_on"]
    assert f"threshold {point.objectness:.3g} flags {record['achieved_fpr']:.1%} of" in line
    _, scores = open_detector(result.checkpoint).predict_slots(
        clean_frames("held_out", size_wh=(64, 64))
    )
    flagged = int((scores.max(axis=1) >= point.objectness).sum())
    assert flagged <= record["achieved_fpr"] * record["num_clean_frames"] + 0.5


def test_clean_frames_are_enough_where_there_are_many(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path, num_runs=16, split="0.3,0.5,0.2")
    result, _ = train(manifest, tmp_path, model="big", fit_fpr=0.2)
    own = result.header.operating_point
    assert own.fitted is not None
    assert own.fitted["num_clean_frames"] == 7  # one in each run of the validation split
    evaluate_detector(
        EvalConfig(
            manifest=manifest,
            detector_weights=result.checkpoint,
            fit=True,
            fit_fpr=0.2,
            bootstrap=0,
        )
    )
    assert read_header(result.checkpoint).operating_point == own


def test_infer_shows_boxes_from_the_fitted_threshold(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = train(manifest, tmp_path, model="big")
    point = result.header.operating_point
    assert open_detector(result.checkpoint).operating_point == point
    assert result.validation is not None
    assert result.validation.at_threshold.threshold == point.objectness
    image = next((manifest.parent.parent.parent / "captures").rglob("*.png"))
    command = ["infer", "--detector-weights", str(result.checkpoint), "--image", str(image)]
    main([*command, "--output-root", str(tmp_path / "boxed"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["operating_point"]["objectness"] == point.objectness


def test_a_rate_for_which_the_images_are_too_few_takes_the_best_f1(
    tmp_path: Path, manifest: Path
) -> None:
    result, line = train(manifest, tmp_path, model="big", epochs=12, fit_fpr=0.001)
    record = result.header.operating_point.fitted
    assert record is not None
    assert record["rule"] == "f1"
    threshold = result.header.operating_point.objectness
    assert line == (
        f"operating point: threshold {threshold:.3g} has the best F1 of boxes: the "
        f"{record['num_clean_frames']} held-out images without a polyp are fewer than the 1000 "
        "that the rate needs; add frames without a polyp, or raise it (`haustra train --fit-fpr`)"
    )


def test_without_a_validation_sample_the_default_is_kept_and_said(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path, split="1,0,0")
    result, line = train(manifest, tmp_path)
    assert result.header.operating_point.fitted is None
    assert line == (
        "operating point: threshold 0.3 is the default, not fitted: the warehouse has no "
        "validation sample; run `haustra eval --fit` on frames with polyps and without"
    )


def test_with_patience_the_point_is_that_of_the_best_weights(
    tmp_path: Path, manifest: Path
) -> None:
    result, _ = train(manifest, tmp_path, model="big", epochs=3, val_every=1, patience=3)
    chosen = result.header.history[result.header.epoch - 1]
    assert chosen["operating_point"]["objectness"] == result.header.operating_point.objectness
    assert np.isfinite(result.header.operating_point.objectness)
