"""The eval stage: a detector measured on a split, with metrics and report on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from haustra.core.detections import PredictSlots
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic
from haustra.core.letterbox import ResizeMode
from haustra.core.progress import Progress
from haustra.evaluate.bootstrap import BootstrapIntervals, bootstrap_intervals
from haustra.evaluate.config import EvalConfig
from haustra.evaluate.evaluation import Evaluation, evaluate_split
from haustra.evaluate.report import write_report
from haustra.warehouse.format import WarehouseManifest
from haustra.warehouse.reading import open_split


class MeasurableDetector(Protocol):
    """What an evaluation asks of a detector."""

    @property
    def caption(self) -> str:
        """Its name."""

    @property
    def input_size_wh(self) -> tuple[int, int]:
        """Width and height in pixels of the images that it takes."""

    @property
    def resize_mode(self) -> ResizeMode:
        """How images are brought to that size."""

    @property
    def objectness(self) -> float:
        """Score threshold of its operating point."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch of its training."""

    @property
    def predict_slots(self) -> PredictSlots:
        """The detector as a function."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """An evaluation, its summary as JSON values, and the files of its report."""

    evaluation: Evaluation
    intervals: BootstrapIntervals | None
    """None unless asked for."""
    summary: dict[str, Any]
    report: list[Path]


def evaluate_detector(
    config: EvalConfig, *, detector: MeasurableDetector, progress: Progress | None = None
) -> EvaluationResult:
    """Measure a detector on a split of a warehouse; write metrics and report where asked.

    Raises:
        HaustraError: the split is empty, or its images are not what the detector takes.
    """
    split = open_split(config.manifest, split=config.split)
    manifest = split.manifest
    if not len(split):
        filled = [name for name, counts in manifest.splits.items() if counts.samples]
        raise HaustraError(
            f"--split {config.split} of {config.manifest} is empty; expected one of "
            f"{', '.join(filled)}"
        )
    check_images_fit(
        manifest,
        manifest_path=config.manifest,
        weights_path=config.detector_weights,
        input_size_wh=detector.input_size_wh,
        resize_mode=detector.resize_mode,
    )
    threshold = config.infer_obj_thresh
    evaluation = evaluate_split(
        split,
        predict_slots=detector.predict_slots,
        threshold=detector.objectness if threshold is None else threshold,
        shuffle_labels_seed=config.shuffle_labels_seed,
        progress=progress,
    )
    intervals = None
    if config.bootstrap:
        intervals = bootstrap_intervals(
            evaluation.truths,
            evaluation.predictions,
            groups=split.group_ids(),
            threshold=evaluation.metrics.at_threshold.threshold,
            num_resamples=config.bootstrap,
            seed=config.bootstrap_seed,
            progress=progress,
        )
    summary = {
        "checkpoint": str(config.detector_weights),
        "model": detector.caption,
        "warehouse_version": manifest.version,
        "split": config.split,
        "shuffle_labels_seed": config.shuffle_labels_seed,
        **evaluation.metrics.to_json(),
        "bootstrap": intervals and intervals.to_json(),
    }
    report = []
    if config.report:
        report = write_report(
            config.report,
            evaluation=evaluation,
            split=split,
            summary=summary,
            history=detector.history,
        )
    if config.metrics_out:
        write_json_atomic(config.metrics_out, value=summary)
    return EvaluationResult(
        evaluation=evaluation, intervals=intervals, summary=summary, report=report
    )


def check_images_fit(
    manifest: WarehouseManifest,
    *,
    manifest_path: Path,
    weights_path: Path,
    input_size_wh: tuple[int, int],
    resize_mode: ResizeMode,
) -> None:
    """Refuse a warehouse whose images are not what a detector takes.

    Raises:
        HaustraError: size or resize mode differ.
    """
    stored = (manifest.target_size_wh, manifest.resize_mode)
    taken = (input_size_wh, resize_mode)
    if stored != taken:
        raise HaustraError(
            f"{weights_path} takes {_size_text(*taken)} images, but {manifest_path} "
            f"stores {_size_text(*stored)} ones; expected a warehouse of the same --target-size "
            "and --resize-mode"
        )


def _size_text(size_wh: tuple[int, int], mode: ResizeMode) -> str:
    return f"{size_wh[0]}x{size_wh[1]} {mode}"
