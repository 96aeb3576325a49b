"""The eval stage: a detector measured on frames, with metrics and report on disk."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from haustra import __version__
from haustra.core.detections import PredictSlots
from haustra.core.digests import digest_file, digest_group
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic
from haustra.core.letterbox import ResizeMode
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress
from haustra.evaluation.alarm_tier import alarm_tier
from haustra.evaluation.bootstrap import bootstrap_intervals, few_groups_note
from haustra.evaluation.calibration import calibrate
from haustra.evaluation.compare import Comparison, compare_detectors
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.degrade import measure_degradations
from haustra.evaluation.evaluation import (
    Evaluation,
    PredictFrames,
    evaluate_frames,
    frame_predictor,
)
from haustra.evaluation.fitting import fit_operating_point
from haustra.evaluation.frame_tier import few_clean_frames_note, frame_tier, froc_curves
from haustra.evaluation.frames import FrameSource, SplitFrames, open_captures
from haustra.evaluation.lesion_tier import lesion_tier
from haustra.evaluation.predictions import (
    StoredPredictions,
    is_predictions_path,
    read_predictions,
    write_predictions,
)
from haustra.evaluation.report import write_report
from haustra.evaluation.results import EvaluationResult
from haustra.warehouse.audit import audit_warehouse
from haustra.warehouse.dataset import open_split
from haustra.warehouse.format import WarehouseManifest

UNKNOWN_SIZE_WH = (256, 256)
"""Of the pictures in a report about stored predictions, whose detector's input is not known."""


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
    def operating_point(self) -> OperatingPoint:
        """Its thresholds."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch of its training."""

    @property
    def warehouse_version(self) -> str | None:
        """Of the data that it was trained on; None where that is not known."""

    @property
    def training_groups(self) -> tuple[str, ...]:
        """`digest_group` of the groups that it was trained on; none where that is not known."""

    @property
    def predict_slots(self) -> PredictSlots:
        """The detector as a function."""

    @property
    def backend(self) -> str:
        """What computes, for people."""

    def store_operating_point(self, point: OperatingPoint) -> None:
        """Write another operating point into its file."""


OpenDetector = Callable[[Path], MeasurableDetector]


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is measured: a detector, or what one found."""

    path: Path
    caption: str
    operating_point: OperatingPoint
    predict: PredictFrames
    detector: MeasurableDetector | None
    stored: StoredPredictions | None


def _open_subject(path: Path, *, open_detector: OpenDetector) -> _Subject:
    if is_predictions_path(path):
        stored = read_predictions(path)
        return _Subject(
            path=path,
            caption=stored.detector,
            operating_point=stored.operating_point,
            predict=stored.predict,
            detector=None,
            stored=stored,
        )
    detector = open_detector(path)
    return _Subject(
        path=path,
        caption=detector.caption,
        operating_point=detector.operating_point,
        predict=frame_predictor(detector.predict_slots),
        detector=detector,
        stored=None,
    )


def _open_source(config: EvalConfig, *, subject: _Subject) -> FrameSource:
    """Open the frames, as the subject takes them."""
    detector = subject.detector
    if config.captures is not None:
        return open_captures(
            config.captures,
            target_size_wh=detector.input_size_wh if detector else UNKNOWN_SIZE_WH,
            resize_mode=detector.resize_mode if detector else "letterbox",
        )
    if config.manifest is None:
        raise AssertionError("the settings name captures or a manifest")
    split = open_split(config.manifest, split=config.split_name)
    if not len(split):
        filled = [name for name, counts in split.manifest.splits.items() if counts.samples]
        raise HaustraError(
            f"--split {config.split_name} of {config.manifest} is empty; expected one of "
            f"{', '.join(filled)}"
        )
    if detector is not None:
        check_images_fit(
            split.manifest,
            manifest_path=config.manifest,
            weights_path=subject.path,
            input_size_wh=detector.input_size_wh,
            resize_mode=detector.resize_mode,
        )
    return SplitFrames(split)


def _evaluate(
    subject: _Subject, *, source: FrameSource, config: EvalConfig, progress: Progress
) -> Evaluation:
    evaluation = evaluate_frames(
        source,
        predict=subject.predict,
        threshold=_threshold(subject, config=config),
        shuffle_labels_seed=config.shuffle_labels_seed,
        progress=progress,
    )
    if subject.stored is not None:
        subject.stored.check_frames([frame.sample_id for frame in evaluation.frames])
    return evaluation


def _threshold(subject: _Subject, *, config: EvalConfig) -> float:
    given = config.infer_obj_thresh
    return subject.operating_point.objectness if given is None else given


def _leak_notes(
    config: EvalConfig, *, subject: _Subject, evaluation: Evaluation, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """Look for what the detector may have seen before: groups by name, images by their look."""
    detector, notes = subject.detector, []
    groups = sorted({frame.group_id for frame in evaluation.frames})
    trained = set(detector.training_groups) if detector else set()
    shared = [name for name in groups if digest_group(name) in trained]
    audit: dict[str, Any] = {
        "num_groups": len(groups),
        "training_groups_known": bool(trained),
        "shared_groups": shared,
    }
    if shared:
        notes.append(
            f"LEAK: {len(shared)} of {len(groups)} groups were trained on, such as {shared[0]!r}"
        )
    elif not trained:
        notes.append("leakage: which groups it was trained on is not known")
    if config.report is not None and config.manifest is not None:
        found = audit_warehouse(config.manifest, progress=progress)
        of_split = [
            pair for pair in found.pairs if config.split_name in (pair.split_a, pair.split_b)
        ]
        audit |= {
            "near_duplicates": len(of_split),
            "nearest": [vars(pair) for pair in of_split[:20]],
        }
        if of_split:
            notes.append(
                f"leakage: {len(of_split)} images of {config.split_name} look like one of another "
                "split; `haustra warehouse audit` names them"
            )
    return audit, notes


def _time_order_note(evaluation: Evaluation, *, source: FrameSource) -> str | None:
    """Return a line about the runs that lesions and alarms leave out; None where there is none."""
    if isinstance(source, SplitFrames):
        return (
            "lesions and alarms are left out, since a split is in no time order; use "
            "`haustra eval --captures`"
        )
    runs = list(dict.fromkeys(frame.run_id for frame in evaluation.frames))
    unordered = [run for run in runs if run not in source.frame_rates_hz]
    if not unordered:
        return None
    return (
        f"lesions and alarms leave out {len(unordered)} of {len(runs)} runs, not known to be in "
        f"time order (stills, or no frame_rate_hz): {unordered[0]!r}"
    )


def evaluate_detector(
    config: EvalConfig, *, open_detector: OpenDetector, progress: Progress | None = None
) -> EvaluationResult:
    """Measure a detector on frames; write metrics, predictions and report where asked.

    Args:
        config: with `detector_weights`.
        open_detector: how to open a checkpoint or an ONNX model.
        progress: where to show how far it is.

    Raises:
        HaustraError: there is no frame, the images are not what the detector takes, or the
            operating point cannot be fitted.
    """
    progress = progress or SilentProgress()
    if config.detector_weights is None:
        raise AssertionError("the settings name what to measure")
    subject = _open_subject(config.detector_weights, open_detector=open_detector)
    source = _open_source(config, subject=subject)
    evaluation = _evaluate(subject, source=source, config=config, progress=progress)
    point, threshold_from = _operating_point(
        config, subject=subject, source=source, evaluation=evaluation
    )
    evaluation = evaluation.with_threshold(point.objectness)
    truths, predictions = evaluation.truths, evaluation.predictions
    audit, leaks = _leak_notes(config, subject=subject, evaluation=evaluation, progress=progress)
    intervals = None
    if config.bootstrap:
        intervals = bootstrap_intervals(
            truths,
            predictions,
            groups=[frame.group_id for frame in evaluation.frames],
            threshold=point.objectness,
            num_resamples=config.bootstrap,
            seed=config.bootstrap_seed,
            progress=progress,
        )
    frames = frame_tier(truths, predictions, threshold=point.objectness)
    froc = froc_curves(truths, predictions)
    calibration = calibrate(truths, predictions)
    lesions = alarms = degradations = None
    rates = source.frame_rates_hz
    if rates and config.shuffle_labels_seed is None:
        lesions = lesion_tier(
            evaluation.frames, predictions, threshold=point.objectness, frame_rates_hz=rates
        )
        alarms = alarm_tier(evaluation.frames, predictions, point=point, frame_rates_hz=rates)
    if config.degrade and subject.detector is not None:
        degradations = measure_degradations(
            source,
            predict_slots=subject.detector.predict_slots,
            threshold=point.objectness,
            progress=progress,
        )
    cautions = (
        few_clean_frames_note(frames),
        few_groups_note(intervals),
        _time_order_note(evaluation, source=source),
    )
    notes = [
        *leaks,
        *(note for note in cautions if note),
        *(f"left out: {problem}" for problem in source.problems),
    ]
    manifest = source.split.manifest if isinstance(source, SplitFrames) else None
    summary = {
        "checkpoint": str(config.detector_weights),
        "checkpoint_sha256": digest_file(config.detector_weights),
        "model": subject.caption,
        "backend": subject.detector and subject.detector.backend,
        "warehouse_version": manifest and manifest.version,
        "captures": config.captures and str(config.captures),
        "split": manifest and config.split_name,
        "shuffle_labels_seed": config.shuffle_labels_seed,
        "operating_point": point.to_json(),
        "threshold_from": threshold_from,
        **evaluation.metrics.to_json(),
        "frames": asdict(frames),
        "calibration": asdict(calibration),
        "lesions": lesions and asdict(lesions),
        "alarms": alarms and asdict(alarms),
        "froc": asdict(froc),
        "degradations": degradations and degradations.to_json(),
        "bootstrap": intervals and asdict(intervals),
        "leakage_audit": audit,
        "notes": notes,
        "settings": config.to_json(),
        "haustra_version": __version__,
    }
    result = EvaluationResult(
        evaluation=evaluation,
        operating_point=point,
        intervals=intervals,
        frames=frames,
        froc=froc,
        calibration=calibration,
        lesions=lesions,
        alarms=alarms,
        degradations=degradations,
        notes=notes,
        summary=summary,
        report=[],
    )
    if config.report:
        report = write_report(
            config.report,
            result=result,
            source=source,
            history=subject.detector.history if subject.detector else [],
            data_sources=[entry.model_dump() for entry in manifest.sources] if manifest else [],
        )
        result = replace(result, report=report)
    if config.metrics_out:
        write_json_atomic(config.metrics_out, value=summary)
    if config.predictions_out:
        write_predictions(
            config.predictions_out,
            detector=subject.caption,
            operating_point=point,
            frames=evaluation.frames,
            predictions=predictions,
        )
    return result


def _operating_point(
    config: EvalConfig, *, subject: _Subject, source: FrameSource, evaluation: Evaluation
) -> tuple[OperatingPoint, str]:
    """Return the operating point to measure at, fitted and stored where asked, and its origin."""
    point = subject.operating_point
    if config.fit and subject.detector is not None:
        name = (
            f"{source.name} of v{source.split.manifest.version}"
            if isinstance(source, SplitFrames)
            else source.name
        )
        point = fit_operating_point(
            evaluation,
            rule=config.fit_by,
            target_fpr=config.fit_fpr,
            iou=point.iou,
            name=name,
            frame_rates_hz=source.frame_rates_hz,
        )
        subject.detector.store_operating_point(point)
        return point, f"fitted on {name}"
    if config.infer_obj_thresh is not None:
        # A lower threshold was fitted to another upper one.
        point = replace(point, objectness=config.infer_obj_thresh, hysteresis=None, fitted=None)
        return point, "--infer-obj-thresh"
    if point.fitted is not None:
        return point, f"fitted on {point.fitted['fitted_on']}"
    return point, "the default, not fitted"


def compare_weights(
    config: EvalConfig, *, open_detector: OpenDetector, progress: Progress | None = None
) -> Comparison:
    """Compare two detectors on the same frames; write the differences where asked.

    Args:
        config: with `compare`.
        open_detector: how to open a checkpoint or an ONNX model.
        progress: where to show how far it is.

    Raises:
        HaustraError: as `evaluate_detector`, or no box is labelled.
    """
    progress = progress or SilentProgress()
    if config.compare is None:
        raise AssertionError("the settings name what to compare")
    subjects = [_open_subject(path, open_detector=open_detector) for path in config.compare]
    a, b = (
        _evaluate(
            subject,
            source=_open_source(config, subject=subject),
            config=config,
            progress=progress,
        )
        for subject in subjects
    )
    if not a.metrics.num_truths:
        raise HaustraError("--compare: the frames have no labelled box to be better at")
    comparison = compare_detectors(
        a.truths,
        a.predictions,
        b.predictions,
        groups=[frame.group_id for frame in a.frames],
        thresholds=(a.metrics.at_threshold.threshold, b.metrics.at_threshold.threshold),
        num_resamples=config.bootstrap,
        seed=config.bootstrap_seed,
        progress=progress,
    )
    if config.metrics_out:
        value = {"a": str(config.compare[0]), "b": str(config.compare[1]), **comparison.to_json()}
        write_json_atomic(config.metrics_out, value=value)
    return comparison


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
