"""Training a detector from a warehouse: check, set up, loop, validate, save, top to bottom."""

import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from haustra.backends.choose import Backend, choose_backend, resolve_precision
from haustra.core.allocator import keep_freed_memory
from haustra.core.digests import digest_group
from haustra.core.errors import HaustraError
from haustra.core.files import remove_abandoned
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress
from haustra.evaluation.evaluation import evaluate_split
from haustra.evaluation.frames import SplitFrames
from haustra.evaluation.gallery import write_gallery
from haustra.evaluation.metrics import AveragePrecision, BoxMetrics, ThresholdMetrics
from haustra.models.backbone import count_parameters
from haustra.models.checkpoint import (
    CheckpointHeader,
    read_checkpoint,
    read_header,
    weights_digest,
    write_checkpoint,
)
from haustra.training.batches import WaitedBatch
from haustra.training.config import TrainConfig
from haustra.training.interrupts import Interrupts
from haustra.training.memory import is_out_of_memory, out_of_memory_error, try_largest_step
from haustra.training.reporting import Reporter
from haustra.training.run_folder import (
    CURVES_NAME,
    GALLERY_NAME,
    STATES_NAME,
    draw_training_curves,
    write_run_files,
)
from haustra.training.state import (
    Position,
    TrainingState,
    differing_settings,
    find_state,
    remove_half_written,
    remove_states,
    write_state,
)
from haustra.training.training import Training, epoch_batches
from haustra.warehouse.dataset import Split, Warehouse, open_warehouse


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training made."""

    checkpoint_path: Path
    run_folder: Path
    metrics_path: Path
    header: CheckpointHeader
    weights_sha256: str
    validation: BoxMetrics | None
    """Of the saved weights; None where the warehouse has no validation sample."""
    seconds: float
    """Of training; validating and saving come on top."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training whose settings and data are checked, and that has not begun."""

    config: TrainConfig
    """Resolved: nothing is left open."""
    split: Split
    validation_split: Split
    backend: Backend


def _check_target(config: TrainConfig) -> None:
    """Refuse to overwrite what is not a checkpoint of the same kind."""
    path = config.checkpoint_path
    if not path.exists() or config.overwrite:
        return
    try:
        header = read_header(path)
    except HaustraError:
        raise HaustraError(
            f"--checkpoint-out {path} exists and is not a haustra checkpoint; expected a new name, "
            "or pass --overwrite"
        ) from None
    if header.model.kind != config.model:
        raise HaustraError(
            f"--checkpoint-out {path} holds {header.kind_name}, not {config.model}det; expected a "
            "new name, or pass --overwrite"
        )


def _open_training_split(config: TrainConfig, *, warehouse: Warehouse) -> Split:
    split = warehouse.split("train")
    max_boxes = split.manifest.max_boxes
    if config.max_boxes is not None and config.max_boxes != max_boxes:
        raise HaustraError(
            f"--max-boxes {config.max_boxes} differs from the warehouse's max_boxes {max_boxes}; "
            f"leave it out, or build a warehouse with `haustra etl --max-boxes {config.max_boxes}`"
        )
    if not split.num_boxes:
        raise HaustraError(
            f"{config.manifest}: the training split has {len(split)} sample(s) and no box, so "
            "there is nothing to learn; look at what `haustra prune` kept and at the labels that "
            "`haustra import` made"
        )
    return split


def prepare_training(config: TrainConfig) -> Prepared:
    """Check settings and data, and decide what the settings leave open.

    Raises:
        HaustraError: the warehouse or a setting is wrong.
    """
    _check_target(config)
    warehouse = open_warehouse(config.manifest, config=config.store_config)
    split = _open_training_split(config, warehouse=warehouse)
    validation_split = warehouse.split("val")
    if config.patience and not validation_split.num_boxes:
        raise HaustraError(
            f"--patience {config.patience}: the validation split of {config.manifest} has no box "
            "to be better at; leave --patience out, or build a warehouse with more groups"
        )
    backend = choose_backend(config.backend)
    resolved = config.resolve(
        max_boxes=split.manifest.max_boxes,
        precision=resolve_precision(config.precision, backend=backend.name),
        backend=backend.name,
    )
    return Prepared(
        config=resolved, split=split, validation_split=validation_split, backend=backend
    )


def train_detector(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train TinyDet or BigDet and write its checkpoint, metrics and run folder.

    An interrupted training into the same checkpoint is continued where it was. The saved weights
    are the moving average at the end (until then, at the last validation), or with `patience` at
    the best validation. The same seed and `epochs` give the same weights, byte for byte, on one
    machine, interrupted or not.

    Raises:
        HaustraError: the warehouse or a setting is wrong, an interrupted training had other
            settings, the loss is not finite, or the memory does not suffice.
        KeyboardInterrupt: stopped; it says what was saved.
    """
    progress = progress or SilentProgress()
    prepared = prepare_training(config)
    states = prepared.config.run_folder / STATES_NAME
    state = _state_to_continue(prepared, states=states, progress=progress)

    keep_freed_memory()
    training = Training(prepared.config, split=prepared.split, backend=prepared.backend)
    if state is not None:
        training.restore(state)
    _tell_what_begins(training, prepared=prepared, progress=progress)
    write_run_files(
        prepared.config,
        manifest=prepared.split.manifest,
        initial_weights=training.initial_weights,
        num_threads=torch.get_num_threads(),
        backend=prepared.backend,
    )
    try:
        if training.images_grow:
            try_largest_step(training)
        with (
            Interrupts() as interrupts,
            Reporter(prepared.config, history=training.position.history) as reporter,
        ):
            loop = _Loop(
                training,
                validation_split=prepared.validation_split,
                interrupts=interrupts,
                reporter=reporter,
                progress=progress,
            )
            return loop.run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here is the memory of the failed step free again.
    raise out_of_memory_error(training)


def _state_to_continue(
    prepared: Prepared, *, states: Path, progress: Progress
) -> TrainingState | None:
    """Return where an interrupted training was, or None where a new one begins.

    Raises:
        HaustraError: it had other settings, or `--resume` finds none.
    """
    config = prepared.config
    remove_abandoned(config.checkpoint_path)
    remove_half_written(states)
    if config.overwrite:
        remove_states(states)
    found = find_state(states, progress=progress)
    if found is None:
        if config.resume:
            raise HaustraError(
                f"--resume: {config.run_folder} holds no interrupted training; leave --resume out "
                "to start one"
            )
        return None
    path, state = found
    differences = differing_settings(
        state.settings,
        config.to_json(),
        versions=(state.warehouse_version, prepared.split.manifest.version),
    )
    if differences:
        raise HaustraError(
            f"{config.run_folder} holds an interrupted training with other settings: "
            f"{', '.join(differences)}; give its settings to continue it, or --overwrite to start "
            "afresh"
        )
    progress.line(f"continuing the interrupted training of {path}")
    return state


def _tell_what_begins(training: Training, *, prepared: Prepared, progress: Progress) -> None:
    config, split = prepared.config, prepared.split
    width, height = split.manifest.target_size_wh
    progress.line(
        f"{config.model}det: {count_parameters(training.model):,} parameters, {len(split)} "
        f"training images with {split.num_boxes} boxes, {len(prepared.validation_split)} "
        f"validation images, {width}x{height}, {config.precision}"
    )
    backend = prepared.backend
    if backend.name != "ndarray" or backend.why:
        compiling = "; the first steps compile their kernels" if backend.name == "wgpu" else ""
        progress.line(f"{backend}{compiling}")
    if not len(prepared.validation_split):
        progress.line("the warehouse has no validation sample: average precision is not computed")
    if training.step:
        of_all = f" of {training.num_steps}" if training.num_steps else ""
        progress.line(f"{training.step}{of_all} steps are done")


class _Loop:
    """Takes a training to its end."""

    def __init__(
        self,
        training: Training,
        *,
        validation_split: Split,
        interrupts: Interrupts,
        reporter: Reporter,
        progress: Progress,
    ) -> None:
        self.training, self.config = training, training.config
        self.validation_split = validation_split
        self.interrupts, self.reporter, self.progress = interrupts, reporter, progress
        self.states = self.config.run_folder / STATES_NAME
        self.last_tick = self.last_saved = time.monotonic()
        self.saved_step = training.step
        self.header: CheckpointHeader | None = None

    def run(self) -> TrainResult:
        """Train to the end, or save where it is and say so."""
        training, reporter = self.training, self.reporter
        self.progress.start(f"train {self.config.model}det", total=1.0)
        try:
            while not self._is_finished():
                self._run_epoch()
                self._end_epoch()
            result = self._finish()
        except KeyboardInterrupt:
            if not training.is_whole:
                raise KeyboardInterrupt(
                    f"interrupted within step {training.step + 1}; up to step {self.saved_step} "
                    f"is saved in {self.config.run_folder}"
                ) from None
            reporter.status("interrupted", step=training.step)
            if not training.step:
                raise KeyboardInterrupt("interrupted before the first step") from None
            self._save_state()
            of_all = f" of {training.num_steps}" if training.num_steps else ""
            raise KeyboardInterrupt(
                f"interrupted after step {training.step}{of_all}, saved in "
                f"{self.config.run_folder}; the same command continues"
            ) from None
        except Exception as error:
            # What stopped it is told by the error; a disk that takes no state is no second error.
            with suppress(OSError):
                if training.is_whole and training.step > self.saved_step:
                    self._save_state()
                reporter.status("failed", step=training.step, error=str(error))
            raise
        finally:
            self.progress.stop()
        reporter.status(
            "done",
            step=training.step,
            share_done=1.0,
            seconds_left=0.0,
            best_ap50_95=training.position.best_score,
        )
        return result

    def _is_finished(self) -> bool:
        position, config = self.training.position, self.config
        if config.patience and position.validations_since_best >= config.patience:
            return True
        return self.training.share_done >= 1 and not position.num_batches

    def _tick(self) -> None:
        """Count the time since the last tick as training."""
        now = time.monotonic()
        self.training.position.epoch_s += now - self.last_tick
        self.training.position.trained_s += now - self.last_tick
        self.last_tick = now

    def _batches(self) -> Generator[WaitedBatch, None, None]:
        """Open the batches that are left of the epoch."""
        training, position = self.training, self.training.position
        if not position.num_batches:
            position.share_at_epoch_start = training.share_done
        strength = training.augment_strength()
        return epoch_batches(
            training, epoch=position.epoch, first_batch=position.num_batches, strength=strength
        )

    def _run_epoch(self) -> None:
        """Take the steps that are left of the epoch and of the time."""
        training, position = self.training, self.training.position
        self.last_tick = time.monotonic()
        with closing(self._batches()) as batches:
            while not (position.num_batches and training.share_done >= 1):
                with self.interrupts.deferred():
                    loss = training.take_step(batches)
                    self._tick()
                if loss is None:
                    return
                self._tell_step(loss)
                if time.monotonic() - self.last_saved >= self.config.save_every_s:
                    self._save_state()

    def _tell_step(self, loss: float) -> None:
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

    def _save_state(self) -> None:
        """Save all that is needed to continue; the time that it takes is not training."""
        training = self.training
        if training.step:
            write_state(self.states, step=training.step, state=training.state())
        self.saved_step = training.step
        self.last_saved = self.last_tick = time.monotonic()

    def _end_epoch(self) -> None:
        """Validate and save where it is due, and go to the next epoch."""
        training, config, position = self.training, self.config, self.training.position
        epoch = position.epoch + 1
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": training.step,
            "seconds": round(position.trained_s, 3),
            "images_per_s": round(position.num_images / position.epoch_s, 2),
            "stall": round(position.waited_s / position.epoch_s, 4),
            "lr": position.rate,
            **{name: value / position.num_batches for name, value in position.sums.items()},
        }
        text = f"epoch {epoch}: loss {entry['loss']:.4f}, lr {position.rate:.2e}"
        text += f", {entry['images_per_s']:.0f} images/s, stall {entry['stall']:.1%}"
        best, waited = position.best_score, position.validations_since_best
        history = [*position.history, entry]
        if training.share_done >= 1 or epoch % config.val_every == 0:
            is_better = True
            if len(self.validation_split):
                self.reporter.status("validating")
                entry["val"] = self._validate().to_json()
                scores = entry["val"]["average_precision"]
                text += _score_text(", val AP50", scores["ap50"])
                text += _score_text(", AP50-95", scores["ap50_95"])
                is_better = _is_better(
                    scores["ap50_95"], best=best, min_delta=config.patience_min_delta
                )
                best, waited = (scores["ap50_95"], 0) if is_better else (best, waited + 1)
            if is_better or not config.patience:
                self._write_checkpoint(history)
        # In one statement: whoever interrupts finds the epoch done, or still to be ended.
        training.position = Position(
            epoch=epoch,
            rate=position.rate,
            trained_s=position.trained_s,
            history=history,
            best_score=best,
            validations_since_best=waited,
        )
        self.reporter.epoch(entry)
        self.progress.line(text)

    def _validate(self) -> BoxMetrics:
        """Measure the averaged weights, and leave pictures of what they found."""
        evaluation = evaluate_split(
            self.validation_split,
            predict_slots=self.training.build_predictor(),
            threshold=OperatingPoint().objectness,
        )
        write_gallery(
            self.config.run_folder / GALLERY_NAME,
            evaluation=evaluation,
            source=SplitFrames(self.validation_split),
        )
        return evaluation.metrics

    def _write_checkpoint(self, history: list[dict[str, Any]]) -> None:
        manifest, config = self.training.split.manifest, self.config
        header = CheckpointHeader(
            model=self.training.model.config,
            input_size_wh=manifest.target_size_wh,
            resize_mode=manifest.resize_mode,
            max_boxes=manifest.max_boxes,
            class_names=tuple(manifest.class_names),
            warehouse_version=manifest.version,
            training=config.to_json(),
            history=history,
            sources=[source.model_dump() for source in manifest.sources],
            training_groups=tuple(
                sorted({digest_group(name) for name in self.training.split.group_ids()})
            ),
        )
        write_checkpoint(
            config.checkpoint_path, header=header, state=self.training.average.model.state_dict()
        )

    def _finish(self) -> TrainResult:
        """Complete checkpoint and run folder; the states have served their time."""
        config, position = self.config, self.training.position
        header, model = read_checkpoint(config.checkpoint_path)
        state = model.state_dict()
        saved = [entry for entry in header.history if "val" in entry]
        if len(header.history) < len(position.history):
            # The best weights are of an earlier epoch, but what came after is worth knowing.
            header = replace(header, history=position.history)
            write_checkpoint(config.checkpoint_path, header=header, state=state)
        draw_training_curves(config.run_folder / CURVES_NAME, history=position.history)
        remove_states(self.states)
        return TrainResult(
            checkpoint_path=config.checkpoint_path,
            run_folder=config.run_folder,
            metrics_path=config.metrics_path,
            header=header,
            weights_sha256=weights_digest(state),
            validation=_metrics_from_json(saved[-1]["val"]) if saved else None,
            seconds=position.trained_s,
        )


def _is_better(score: float | None, *, best: float | None, min_delta: float) -> bool:
    if score is None or best is None:
        return True
    return score > best + min_delta


def _metrics_from_json(value: dict[str, Any]) -> BoxMetrics:
    return BoxMetrics(
        num_images=value["num_images"],
        num_truths=value["num_truths"],
        average_precision=AveragePrecision(**value["average_precision"]),
        at_threshold=ThresholdMetrics(**value["at_threshold"]),
    )


def _score_text(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {value:.3f}"
