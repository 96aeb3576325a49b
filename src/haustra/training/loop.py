"""Training a detector from a warehouse: check, set up, loop, validate, save, top to bottom."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from haustra.core.allocator import keep_freed_memory
from haustra.core.digests import digest_group
from haustra.core.errors import HaustraError, option
from haustra.core.files import remove_abandoned
from haustra.core.interrupts import Interrupts
from haustra.core.locks import LockedError, locked_folder
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress
from haustra.evaluation.evaluation import evaluate_frames
from haustra.evaluation.frames import SplitFrames
from haustra.evaluation.gallery import write_gallery
from haustra.evaluation.metrics import BoxMetrics, threshold_metrics
from haustra.inference.detector import Detector
from haustra.models.backbone import count_parameters
from haustra.models.checkpoint import (
    CheckpointHeader,
    read_checkpoint,
    read_header,
    write_checkpoint,
)
from haustra.training.config import TrainConfig
from haustra.training.held_out import describe_fit, fit_after_training
from haustra.training.memory import is_out_of_memory, out_of_memory_error, try_largest_step
from haustra.training.prepare import Prepared, prepare_training
from haustra.training.replicas import one_thread_each
from haustra.training.run_folder import Reporter, draw_training_curves, write_run_files
from haustra.training.state import (
    TrainingState,
    differing_settings,
    find_state,
    remove_states,
    write_state,
)
from haustra.training.training import Training


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult:
    """The files and the scores of a training."""

    checkpoint: Path
    run_folder: Path
    metrics_path: Path
    header: CheckpointHeader
    weights_sha256: str
    validation: BoxMetrics | None
    """Scores of the saved weights; None where the warehouse has no validation sample."""
    seconds: float
    """Seconds of training. Validating and saving come on top."""

    def __repr__(self) -> str:
        scores = _score_text(asdict(self.validation.average_precision)) if self.validation else ""
        return (
            f"TrainResult({self.header.kind_name}, checkpoint {str(self.checkpoint)!r}, "
            f"{len(self.header.history)} epochs, {self.seconds:.0f} s{scores})"
        )


def train_detector(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train TinyDet or BigDet and write its checkpoint, metrics and run folder.

    An interrupted training into the same checkpoint continues where it stopped. The saved weights
    are the moving average at the end (until then, at the last validation), or with `patience` at
    the best validation. The same seed and `epochs` give the same weights, byte for byte, on one
    machine, interrupted or not.

    Args:
        progress: Receives lines and the state of a progress bar.

    Raises:
        HaustraError: The warehouse or a setting is wrong, an interrupted training had other
            settings, another process trains into the same checkpoint, the loss is not finite, or
            the memory does not suffice.
        KeyboardInterrupt: The training was stopped; the text says what was saved.
    """
    progress = progress or SilentProgress()
    prepared = prepare_training(config)
    with _holding_checkpoint(prepared.config, progress=progress), one_thread_each(prepared.config):
        return _train(prepared, progress=progress)


@contextmanager
def _holding_checkpoint(config: TrainConfig, *, progress: Progress) -> Iterator[None]:
    """Keep other trainings away from the checkpoint and its run folder during the block."""
    try:
        with locked_folder(config.run_folder) as why_not:
            if why_not:
                progress.line(
                    f"{config.run_folder} is on a file system without locks ({why_not}): start no "
                    "second training into it"
                )
            yield
    except LockedError as error:
        raise HaustraError(
            f"{option('checkpoint_out', config.checkpoint_path)}: another training writes it "
            f"({error.holder}); wait for its end, stop it, or choose another name"
        ) from None


def _train(prepared: Prepared, *, progress: Progress) -> TrainResult:
    state = _state_to_continue(prepared, progress=progress)
    if state is None and (finished := _finished_training(prepared, progress=progress)) is not None:
        return finished
    keep_freed_memory()
    training = Training(prepared, state=state)
    _print_beginning(training, progress=progress)
    try:
        if training.images_grow or training.is_compiled:
            try_largest_step(training)
        write_run_files(prepared, initial_weights=training.initial_weights)
        with (
            Interrupts() as interrupts,
            Reporter(prepared.config, history=training.position.history) as reporter,
        ):
            return _Loop(training, interrupts, reporter, progress).run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here is the memory of the failed step free again.
    raise out_of_memory_error(training)


def _state_to_continue(prepared: Prepared, *, progress: Progress) -> TrainingState | None:
    """Return the state of an interrupted training, or None where a new one begins."""
    config = prepared.config
    states = config.run_folder / "states"
    remove_abandoned(config.checkpoint_path)
    remove_abandoned(states / "state_*.safetensors")
    if config.overwrite:
        remove_states(states)
    found = find_state(states, progress=progress)
    if found is None:
        if config.resume and not _holds_finished(config.checkpoint_path):
            raise HaustraError(
                f"{option('resume', True)}: {config.run_folder} holds no interrupted training; "
                f"leave {option('resume')} out to start one"
            )
        return None
    path, state = found
    if differences := _differences(state, before=state.settings, prepared=prepared):
        raise HaustraError(
            f"{config.run_folder} holds an interrupted training with other settings: "
            f"{', '.join(differences)}; give its settings to continue it, or "
            f"{option('overwrite', True)} to start again"
        )
    progress.line(f"continuing the interrupted training of {path}")
    return state


def _differences(
    earlier: TrainingState | CheckpointHeader, *, before: dict[str, Any], prepared: Prepared
) -> list[str]:
    """Return a phrase per setting that decides the weights and differs from an earlier training."""
    config, now = prepared.config, prepared.config.to_json()
    if config.init_from is not None:
        # Weights are compared by content; where the file is gone, its name is all there is.
        with suppress(HaustraError):
            now["init_from"] = read_header(config.init_from).weights_sha256
            before = before | {"init_from": earlier.initial_weights.get("weights_sha256")}
    versions = (earlier.warehouse_version, prepared.split.manifest.version)
    return differing_settings(before, now, versions=versions)


def _holds_finished(path: Path) -> bool:
    return path.exists() and read_header(path).is_finished


def _finished_training(prepared: Prepared, *, progress: Progress) -> TrainResult | None:
    """Return the finished training that the checkpoint already holds; None where one begins."""
    config = prepared.config
    path, again = config.checkpoint_path, option("if_finished", "again")
    if config.overwrite or config.if_finished == "again" or not _holds_finished(path):
        return None
    header, _ = read_checkpoint(path)  # and the digest of its weights
    shown = option("checkpoint_out", path)
    if differences := _differences(header, before=header.training, prepared=prepared):
        raise HaustraError(
            f"{shown} holds a finished training with other settings: {', '.join(differences)}; "
            f"choose another name, or {again} to replace it"
        )
    if config.if_finished == "error":
        raise HaustraError(
            f"{shown} holds the finished training of these settings; choose another name, or "
            f"{again} to train again"
        )
    progress.line(
        f"{path} holds the finished training of these settings; `haustra train --if-finished "
        "again` trains again"
    )
    return _result_of(config)


def _result_of(config: TrainConfig) -> TrainResult:
    """Return the result of the finished training that a checkpoint holds."""
    header = read_header(config.checkpoint_path)
    last, chosen = header.history[-1], header.history[header.epoch - 1]
    return TrainResult(
        checkpoint=config.checkpoint_path,
        run_folder=config.run_folder,
        metrics_path=config.metrics_path,
        header=header,
        weights_sha256=header.weights_sha256,
        validation=TypeAdapter(BoxMetrics).validate_python(chosen["val"])
        if "val" in chosen
        else None,
        seconds=last["seconds"],
    )


def _print_beginning(training: Training, *, progress: Progress) -> None:
    config, split, backend = training.config, training.split, training.backend
    width, height = split.manifest.target_size_wh
    progress.line(
        f"{config.model}det: {count_parameters(training.model):,} parameters, {len(split)} "
        f"training images with {split.num_boxes} boxes, {len(training.validation_split)} "
        f"validation images, {width}x{height}, {config.precision}"
    )
    if backend.name == "wgpu":
        progress.line(f"{backend}; experimental; the first steps compile kernels")
    elif backend.name != "cpu" or backend.why:
        progress.line(str(backend))
    if not len(training.validation_split):
        progress.line("the warehouse has no validation sample: average precision is not computed")
    if training.step:
        progress.line(f"{training.steps_text} steps are done")


@dataclass
class _Loop:
    """Runs a training to its end."""

    training: Training
    interrupts: Interrupts
    reporter: Reporter
    progress: Progress

    def __post_init__(self) -> None:
        self.config = self.training.config
        self.states = self.config.run_folder / "states"
        self.last_saved = time.monotonic()
        self.saved_step = self.training.step

    def run(self) -> TrainResult:
        """Train to the end; when interrupted, save the state and report that."""
        training, reporter = self.training, self.reporter
        self.progress.start(f"train {self.config.model}det", total=1.0)
        try:
            while not training.is_finished:
                self._train_epoch()
                self._end_epoch()
            result = self._finish()
        except KeyboardInterrupt:
            raise self._interrupted() from None
        except Exception as error:
            # The error says why the training stopped; a disk that takes no state adds nothing.
            with suppress(OSError):
                if training.is_whole and training.step > self.saved_step:
                    self._save_state()
                reporter.status("failed", step=training.step, error=str(error))
            raise
        finally:
            self.progress.stop()
        best = training.position.best_score
        reporter.status(
            "done", step=training.step, share_done=1.0, seconds_left=0.0, best_ap50_95=best
        )
        return result

    def _train_epoch(self) -> None:
        """Take the steps that are left of the epoch and of the time."""
        training = self.training
        with closing(training.batches()) as batches:
            while not training.is_time_up:
                with self.interrupts.deferred():
                    loss = training.take_step(batches)
                if loss is None:
                    return
                self._report_step(loss)
                if time.monotonic() - self.last_saved >= self.config.save_every_s:
                    self._save_state()

    def _report_step(self, loss: float) -> None:
        training, position = self.training, self.training.position
        done = min(1.0, training.share_done)
        mean_loss = position.sums["loss"] / position.num_batches
        self.progress.update(done, note=f"epoch {position.epoch + 1}, loss {mean_loss:.3f}")
        if self.config.log_interval and training.step % self.config.log_interval == 0:
            self.progress.line(f"step {training.step}: loss {loss:.4f}")
        self.reporter.status(
            "training",
            epoch=position.epoch + 1,
            step=training.step,
            num_steps=training.num_steps,
            share_done=round(done, 4),
            seconds_left=round(position.trained_s * (1 - done) / max(done, 1e-9), 1),
            loss=loss,
            lr=position.rate,
            images_per_s=round(position.num_images / max(position.epoch_s, 1e-9), 2),
            best_ap50_95=position.best_score,
        )

    def _end_epoch(self) -> None:
        """Validate and save where it is due, and move to the next epoch."""
        training, config = self.training, self.config
        entry = training.epoch_entry()
        text = f"epoch {entry['epoch']}: loss {entry['loss']:.4f}, lr {entry['lr']:.2e}"
        text += f", {entry['images_per_s']:.0f} images/s"
        text += f", data {entry['data_cpu']:.1%} of CPU time, stall {entry['stall']:.1%}"
        if training.share_done >= 1 or entry["epoch"] % config.val_every == 0:
            is_better = True
            if len(self.training.validation_split):
                self.reporter.status("validating")
                is_better = self._validate(entry)
                text += _score_text(entry["val"]["average_precision"])
            if is_better or not config.patience:
                if config.patience:
                    training.keep_average()
                self._write_checkpoint([*training.position.history, entry], epoch=entry["epoch"])
        training.end_epoch(entry)
        self.reporter.epoch(entry)
        self.progress.line(text)

    def _validate(self, entry: dict[str, Any]) -> bool:
        """Measure the averaged weights, and write pictures of their detections.

        The last validation, and with `patience` each better one, also fits the operating point.

        Args:
            entry: The epoch's entry, which gets the metrics and the operating point.

        Returns:
            True if the validation is better than all before.
        """
        training, split = self.training, self.training.validation_split
        manifest = split.manifest
        detector = Detector(
            predict_slots=training.build_predictor(),
            kind=self.config.model,
            caption=f"{self.config.model}det",
            input_size_wh=manifest.target_size_wh,
            resize_mode=manifest.resize_mode,
        )
        frames = SplitFrames(split)
        evaluation = evaluate_frames(frames, detector)
        is_better = training.is_better(evaluation.metrics.average_precision.ap50_95)
        if is_better if self.config.patience else training.share_done >= 1:
            target_fpr = self.config.fit_fpr
            point = fit_after_training(detector, evaluation, split=split, target_fpr=target_fpr)
            entry["operating_point"] = point.to_json()
            truths, predictions = evaluation.truths, evaluation.predictions
            counts = threshold_metrics(truths, predictions, threshold=point.objectness)
            metrics = replace(evaluation.metrics, at_threshold=counts)
            evaluation = replace(evaluation, metrics=metrics)
        entry["val"] = evaluation.metrics.to_json()
        path = self.config.run_folder / "gallery.png"
        write_gallery(path, evaluation=evaluation, source=frames)
        return is_better

    def _write_checkpoint(
        self, history: list[dict[str, Any]], *, epoch: int, is_finished: bool = False
    ) -> None:
        split, config = self.training.split, self.config
        manifest = split.manifest
        point = history[epoch - 1].get("operating_point", {})
        header = CheckpointHeader(
            model=self.training.model.config,
            input_size_wh=manifest.target_size_wh,
            resize_mode=manifest.resize_mode,
            max_boxes=manifest.max_boxes,
            class_names=tuple(manifest.class_names),
            warehouse_version=manifest.version,
            training=config.to_json(),
            epoch=epoch,
            is_finished=is_finished,
            operating_point=TypeAdapter(OperatingPoint).validate_python(point),
            initial_weights=self.training.initial_weights,
            history=history,
            sources=[source.model_dump() for source in manifest.sources],
            training_groups=tuple(sorted({digest_group(name) for name in split.group_ids()})),
        )
        write_checkpoint(config.checkpoint_path, header=header, state=self.training.chosen_weights)

    def _save_state(self) -> None:
        """Save everything that a continued training needs."""
        training = self.training
        if training.step:
            write_state(self.states, step=training.step, state=training.state())
        self.saved_step = training.step
        self.last_saved = time.monotonic()

    def _interrupted(self) -> KeyboardInterrupt:
        """Save the state if it is whole, and return an interrupt whose text reports that."""
        training, folder = self.training, self.config.run_folder
        if not training.is_whole:
            return KeyboardInterrupt(
                f"interrupted within step {training.step + 1}; up to step {self.saved_step} "
                f"is saved in {folder}"
            )
        self.reporter.status("interrupted", step=training.step)
        if not training.step:
            return KeyboardInterrupt("interrupted before the first step")
        self._save_state()
        return KeyboardInterrupt(
            f"interrupted after step {training.steps_text}, saved in {folder}; the same command "
            "continues"
        )

    def _finish(self) -> TrainResult:
        """Complete checkpoint and run folder, and remove the states."""
        config, position = self.config, self.training.position
        epoch = position.best_epoch if config.patience else position.epoch
        # Written from memory: whoever moved the file away meanwhile gets it again.
        self._write_checkpoint(position.history, epoch=epoch, is_finished=True)
        draw_training_curves(config.run_folder / "curves.png", history=position.history)
        remove_states(self.states)
        result = _result_of(config)
        has_validation = result.validation is not None
        self.progress.line(
            describe_fit(result.header.operating_point, has_validation=has_validation)
        )
        return result


def _score_text(scores: dict[str, float | None]) -> str:
    shown = {"val AP50": scores["ap50"], "AP50-95": scores["ap50_95"]}
    return "".join(f", {name} {value:.3f}" for name, value in shown.items() if value is not None)
