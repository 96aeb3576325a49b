"""`EvalConfig`: every setting of an evaluation, declared once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haustra.core.errors import HaustraError
from haustra.core.ranges import check_whole_number

MAX_RESAMPLES = 100_000


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of `haustra eval`."""

    manifest: Path
    """The warehouse's manifest.json, or its folder."""
    detector_weights: Path
    """What to measure: a checkpoint, or an .onnx file of `haustra export`."""
    model: Literal["tiny", "big"] | None = None
    """Refuse weights of another kind."""
    split: Literal["train", "val", "test"] = "test"
    """Which split to measure on."""
    infer_obj_thresh: float | None = None
    """Score for precision, recall and F1; the weights' operating point (0.3) by default."""
    shuffle_labels_seed: int | None = None
    """Control: measure against labels shuffled among the images; must come out near zero."""
    bootstrap: int = 0
    """Resample the split's groups so often for 95 % intervals, e.g. 1000; 0 gives none."""
    bootstrap_seed: int = 0
    """Seed of the resamples."""
    metrics_out: Path | None = None
    """Write the metrics as JSON to this file."""
    report: Path | None = None
    """Write a report with curves and boxed pictures into this folder."""

    def __post_init__(self) -> None:
        threshold = self.infer_obj_thresh
        if threshold is not None and not 0 <= threshold <= 1:
            raise HaustraError(f"--infer-obj-thresh {threshold}: expected a number from 0 to 1")
        if self.shuffle_labels_seed is not None:
            check_whole_number("--shuffle-labels-seed", self.shuffle_labels_seed, low=0)
        check_whole_number("--bootstrap", self.bootstrap, low=0, high=MAX_RESAMPLES)
        check_whole_number("--bootstrap-seed", self.bootstrap_seed, low=0)
