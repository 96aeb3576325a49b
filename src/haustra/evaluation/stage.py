"""The eval stage measures a detector on frames, and writes metrics and report."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from haustra import __version__
from haustra.core.digests import digest_file, digest_group
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_json_atomic
from haustra.core.operating_point import OperatingPoint
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress
from haustra.evaluation.alarm_tier import alarm_tier
from haustra.evaluation.bootstrap import (
    Comparison,
    bootstrap_intervals,
    compare_detectors,
    few_groups_note,
)
from haustra.evaluation.calibration import calibrate
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.degrade import measure_degradations
from haustra.evaluation.evaluation import Evaluation, evaluate_frames
from haustra.evaluation.fitting import fit_operating_point
from haustra.evaluation.frame_tier import few_clean_frames_note, frame_tier, froc_curves
from haustra.evaluation.frames import FrameSource, SplitFrames, open_captures, timed_runs
from haustra.evaluation.lesion_tier import lesion_tier
from haustra.evaluation.metrics import box_metrics
from haustra.evaluation.predictions import StoredPredictions, read_predictions, write_predictions
from haustra.evaluation.report import write_report
from haustra.evaluation.results import EvaluationResult
from haustra.evaluation.shrunk_tier import shrunk_tier
from haustra.evaluation.size_tier import size_tier
from haustra.inference.checkpoint_detector import store_operating_point
from haustra.inference.detector import Detector, is_onnx_path, open_detector
from haustra.warehouse.audit import audit_warehouse
from haustra.warehouse.dataset import open_split
from haustra.warehouse.format import WarehouseManifest

UNKNOWN_SIZE_WH = (256, 256)
"""Size of the pictures in a report about stored predictions, whose detector is not at hand."""

Subject = Detector | StoredPredictions  # a detector, or the boxes that one has found


def evaluate_detector(
    config: EvalConfig, *, detector: Detector | None = None, progress: Progress | None = None
) -> EvaluationResult:
    """Measure a detector on frames; write metrics, predictions and report where asked.

    Args:
        config: Settings; without `detector` they name the file to measure.
        detector: An open detector, instead of a file.

    Raises:
        HaustraError: There is no frame, the images are not what the detector takes, or the
            operating point cannot be fitted.
    """
    progress = progress or SilentProgress()
    check_outputs(config)
    subject = _open_subject(config, detector=detector)
    if config.fit and subject.path is not None and is_onnx_path(subject.path):
        raise HaustraError(
            f"{option('fit', True)} with {subject.path}: an ONNX model takes its operating "
            "point from its checkpoint; expected the checkpoint; fit that and export it again"
        )
    source, evaluation, point = _evaluate(subject, config=config, progress=progress)
    if config.fit and isinstance(subject, Detector):
        name = source.name
        if isinstance(source, SplitFrames):
            name += f" of v{source.split.manifest.version}"
        point = subject.operating_point = fit_operating_point(
            evaluation,
            rule=config.fit_by,
            target_fpr=config.fit_fpr,
            iou=point.iou,
            name=name,
            frame_rates_hz=source.frame_rates_hz,
        )
        if subject.path is not None:
            store_operating_point(subject.path, point)
        truths, predictions = evaluation.truths, evaluation.predictions
        metrics = box_metrics(truths, predictions, threshold=point.objectness)
        evaluation = replace(evaluation, metrics=metrics)
    result = _measure(
        config,
        subject=subject,
        source=source,
        evaluation=evaluation,
        point=point,
        progress=progress,
    )
    return _write_files(config, result=result, subject=subject, source=source)


def compare_weights(config: EvalConfig, *, progress: Progress | None = None) -> Comparison:
    """Compare two detectors on the same frames; write the differences where asked.

    Raises:
        HaustraError: As for `evaluate_detector`, or no box is labeled.
    """
    progress = progress or SilentProgress()
    if config.compare is None:
        raise AssertionError("the settings name what to compare")
    check_outputs(config)
    subjects = [_open_file(path, config=config) for path in config.compare]
    a, b = (_evaluate(each, config=config, progress=progress)[1] for each in subjects)
    if not a.metrics.num_truths:
        raise HaustraError(f"{option('compare')}: the frames have no labeled box to be better at")
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
        value = {"a": str(config.compare[0]), "b": str(config.compare[1]), **asdict(comparison)}
        write_json_atomic(config.metrics_out, value=value)
    return comparison


def _open_subject(config: EvalConfig, *, detector: Detector | None) -> Subject:
    if detector is None:
        if config.detector_weights is None:
            raise HaustraError(
                f"expected one of {option('detector_weights')} (a file) and {option('compare')} "
                "(two of them): what to measure"
            )
        return _open_file(config.detector_weights, config=config)
    for name in ("detector_weights", "compare", "model", "backend"):
        if getattr(config, name) is not None:
            raise HaustraError(
                f"{option(name, getattr(config, name))} with an open detector: expected one of "
                "them; leave the setting out, or pass no detector"
            )
    return detector


def _open_file(path: Path, *, config: EvalConfig) -> Subject:
    if path.suffix.lower() == ".json":
        return read_predictions(path)
    return open_detector(path, kind=config.model, backend=config.backend)


def _open_source(config: EvalConfig, *, subject: Subject) -> FrameSource:
    """Open the frames in the size that the subject takes."""
    detector = subject if isinstance(subject, Detector) else None
    if config.captures is not None:
        return open_captures(
            config.captures,
            target_size_wh=detector.input_size_wh if detector else UNKNOWN_SIZE_WH,
            resize_mode=detector.resize_mode if detector else "letterbox",
            crops=detector.crops if detector else False,
        )
    if config.manifest is None:
        raise AssertionError("the settings name captures or a manifest")
    split = open_split(config.manifest, split=config.split_name)
    if not len(split):
        filled = [name for name, counts in split.manifest.splits.items() if counts.samples]
        raise HaustraError(
            f"{option('split', config.split_name)} of {config.manifest} is empty; expected one of "
            f"{', '.join(filled)}"
        )
    if detector is not None:
        check_images_fit(split.manifest, manifest_path=config.manifest, detector=detector)
    return SplitFrames(split)


def _evaluate(
    subject: Subject, *, config: EvalConfig, progress: Progress
) -> tuple[FrameSource, Evaluation, OperatingPoint]:
    """Find boxes on the frames of the settings, at the operating point of the settings."""
    source = _open_source(config, subject=subject)
    point = subject.operating_point.with_flags(
        objectness=config.infer_obj_thresh, iou=config.infer_iou_thresh
    )
    evaluation = evaluate_frames(
        source,
        subject,
        point=point,
        shuffle_labels_seed=config.shuffle_labels_seed,
        progress=progress,
    )
    if isinstance(subject, StoredPredictions):
        subject.check_frames([frame.sample_id for frame in evaluation.frames])
    return source, evaluation, point


def _measure(
    config: EvalConfig,
    *,
    subject: Subject,
    source: FrameSource,
    evaluation: Evaluation,
    point: OperatingPoint,
    progress: Progress,
) -> EvaluationResult:
    """Compute every tier of an evaluation."""
    truths, predictions, frames = evaluation.truths, evaluation.predictions, evaluation.frames
    threshold = point.objectness
    audit, notes = _leak_notes(config, subject=subject, evaluation=evaluation, progress=progress)
    intervals = degradations = shrunk = None
    if config.bootstrap:
        intervals = bootstrap_intervals(
            truths,
            predictions,
            groups=[frame.group_id for frame in frames],
            threshold=threshold,
            num_resamples=config.bootstrap,
            seed=config.bootstrap_seed,
            progress=progress,
        )
    if config.degrade and isinstance(subject, Detector):
        degradations = measure_degradations(source, subject, point=point, progress=progress)
        shrunk = shrunk_tier(source, subject, point=point, progress=progress)
    is_control = config.shuffle_labels_seed is not None
    rates_hz = {} if is_control else source.frame_rates_hz
    runs = timed_runs(frames, predictions, frame_rates_hz=rates_hz)
    result = EvaluationResult(
        evaluation=evaluation,
        operating_point=point,
        intervals=intervals,
        frames=frame_tier(truths, predictions, threshold=threshold),
        froc=froc_curves(truths, predictions),
        calibration=calibrate(truths, predictions),
        lesions=lesion_tier(runs, threshold=threshold),
        alarms=alarm_tier(runs, point=point),
        sizes=size_tier(truths, predictions, threshold=threshold),
        degradations=degradations,
        shrunk=shrunk,
        notes=notes,
        summary={},
        report=[],
    )
    cautions = (
        few_clean_frames_note(result.frames),
        few_groups_note(intervals),
        _time_order_note(evaluation, source=source),
    )
    notes += [note for note in cautions if note]
    notes += [f"left out: {problem}" for problem in source.problems]
    summary = _summarize(config, result=result, subject=subject, source=source, audit=audit)
    return replace(result, summary=summary)


def _summarize(
    config: EvalConfig,
    *,
    result: EvaluationResult,
    subject: Subject,
    source: FrameSource,
    audit: dict[str, Any],
) -> dict[str, Any]:
    """Return everything that was measured as JSON values, which `--metrics-out` writes."""
    manifest = source.split.manifest if isinstance(source, SplitFrames) else None
    is_given = config.infer_obj_thresh is not None and not config.fit
    tiers: dict[str, Any] = {
        "frames": result.frames,
        "calibration": result.calibration,
        "lesions": result.lesions,
        "alarms": result.alarms,
        "froc": result.froc,
        "degradations": result.degradations,
        "bootstrap": result.intervals,
    }
    return {
        "checkpoint": subject.path and str(subject.path),
        "checkpoint_sha256": subject.path and digest_file(subject.path),
        "model": subject.caption,
        "backend": subject.backend if isinstance(subject, Detector) else None,
        "warehouse_version": manifest and manifest.version,
        "captures": config.captures and str(config.captures),
        "split": manifest and config.split_name,
        "shuffle_labels_seed": config.shuffle_labels_seed,
        "operating_point": result.operating_point.to_json(),
        "threshold_from": "--infer-obj-thresh" if is_given else result.operating_point.origin,
        **result.evaluation.metrics.to_json(),
        **{name: tier and asdict(tier) for name, tier in tiers.items()},
        "sizes": [asdict(score) for score in result.sizes],
        "shrunk": result.shrunk and [asdict(score) for score in result.shrunk],
        "leakage_audit": audit,
        "notes": result.notes,
        "settings": config.to_json(),
        "haustra_version": __version__,
    }


def _write_files(
    config: EvalConfig, *, result: EvaluationResult, subject: Subject, source: FrameSource
) -> EvaluationResult:
    """Write the files of the settings, and return the result with those of the report."""
    if config.report:
        manifest = source.split.manifest if isinstance(source, SplitFrames) else None
        report = write_report(
            config.report,
            result=result,
            source=source,
            history=subject.history if isinstance(subject, Detector) else [],
            data_sources=[entry.model_dump() for entry in manifest.sources] if manifest else [],
        )
        result = replace(result, report=report)
    if config.metrics_out:
        write_json_atomic(config.metrics_out, value=result.summary)
    if config.predictions_out:
        write_predictions(
            config.predictions_out,
            detector=subject.caption,
            operating_point=result.operating_point,
            frames=result.evaluation.frames,
            predictions=result.evaluation.predictions,
        )
    return result


def _leak_notes(
    config: EvalConfig, *, subject: Subject, evaluation: Evaluation, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """Look for groups and images that the detector may have been trained on."""
    notes = []
    groups = sorted({frame.group_id for frame in evaluation.frames})
    trained = set(subject.training_groups) if isinstance(subject, Detector) else set()
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
        notes.append("leakage: the groups that it was trained on are not known")
    if config.report is not None and config.manifest is not None:
        split, found = config.split_name, audit_warehouse(config.manifest, progress=progress)
        pairs = [pair for pair in found.pairs if split in (pair.split_a, pair.split_b)]
        audit |= {"near_duplicates": len(pairs), "nearest": [vars(pair) for pair in pairs[:20]]}
        if pairs:
            notes.append(
                f"leakage: {len(pairs)} images of {split} look like one of another split; "
                "`haustra warehouse audit` names them"
            )
    return audit, notes


def _time_order_note(evaluation: Evaluation, *, source: FrameSource) -> str | None:
    """Return a note about the runs without lesions and alarms; None if there is none."""
    if isinstance(source, SplitFrames):
        return (
            "lesions and alarms are left out, since a split is not in time order; use "
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


def check_images_fit(
    manifest: WarehouseManifest, *, manifest_path: Path, detector: Detector
) -> None:
    """Refuse a warehouse whose images are not those that a detector takes."""
    (width, height), (input_width, input_height) = manifest.target_size_wh, detector.input_size_wh
    stored = f"{width}x{height} {manifest.resize_mode}"
    taken = f"{input_width}x{input_height} {detector.resize_mode}"
    if stored != taken:
        raise HaustraError(
            f"{detector.path or detector.caption} takes {taken} images, but {manifest_path} stores "
            f"{stored} ones; expected a warehouse of the same {option('target_size')} and "
            f"{option('resize_mode')}"
        )
