"""`EvaluationResult`: everything that one evaluation measured, typed and as JSON values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.alarm_tier import AlarmTier
from haustra.evaluation.bootstrap import BootstrapIntervals
from haustra.evaluation.calibration import Calibration
from haustra.evaluation.degrade import DegradationResult
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frame_tier import FrameTier, FrocCurves
from haustra.evaluation.lesion_tier import LesionTier
from haustra.evaluation.shrunk_tier import ShrunkScore
from haustra.evaluation.size_tier import SizeScore
from haustra.evaluation.tables import decimal


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationResult:
    """An evaluation, its summary as JSON values, and the files of its report."""

    evaluation: Evaluation
    operating_point: OperatingPoint
    intervals: BootstrapIntervals | None
    """None without resamples."""
    frames: FrameTier
    froc: FrocCurves
    calibration: Calibration
    lesions: LesionTier | None
    """None where no run is known to be in time order, or no box names a lesion."""
    alarms: AlarmTier | None
    """None where no run is known to be in time order."""
    sizes: list[SizeScore]
    degradations: DegradationResult | None
    """None unless asked for."""
    shrunk: list[ShrunkScore] | None
    """None unless degradations are asked for."""
    notes: list[str]
    """Cautions for the reader: leaks, small samples, and what is left out."""
    summary: dict[str, Any]
    """Everything that was measured, as JSON values; `--metrics-out` writes it."""
    report: list[Path]
    """Files of the report."""

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured, and the files of the report, as JSON values."""
        return self.summary | {"report": [str(path) for path in self.report]}

    def __repr__(self) -> str:
        metrics, frames, point = self.evaluation.metrics, self.frames, self.operating_point
        scores, counts = metrics.average_precision, metrics.at_threshold
        rows = {
            "detector": self.summary["model"],
            "images": f"{metrics.num_images}, with {metrics.num_truths} polyps",
            "AP50": f"{decimal(scores.ap50)}, AP50-95 {decimal(scores.ap50_95)}",
            "threshold": f"{point.objectness:.3g}: precision {decimal(counts.precision)}, "
            f"recall {decimal(counts.recall)}",
            "frames": f"sensitivity {decimal(frames.sensitivity)} "
            f"({frames.true_positives} of {frames.num_lesion_frames}), false-positive rate "
            f"{decimal(frames.false_positive_rate)} "
            f"({frames.false_positives} of {frames.num_clean_frames})",
            "notes": "\n            ".join(self.notes),
        }
        return "EvaluationResult\n" + "\n".join(
            f"  {name:9} {text}" for name, text in rows.items() if text
        )
