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


@dataclass(frozen=True, kw_only=True)
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
    degradations: DegradationResult | None
    """None unless asked for."""
    notes: list[str]
    """Cautions for the reader: leaks, small samples, and what is left out."""
    summary: dict[str, Any]
    report: list[Path]
