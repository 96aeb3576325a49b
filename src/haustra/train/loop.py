"""Training a detector from a warehouse: set up, loop, step, validate, save, top to bottom."""

import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from haustra.core.allocator import keep_freed_memory
from haustra.core.errors import HaustraError
from haustra.core.progress import Progress, SilentProgress
from haustra.evaluate.evaluation import evaluate_split
from haustra.evaluate.metrics import BoxMetrics
from haustra.models.backbone import count_parameters, images_to_input
from haustra.models.checkpoint import (
    CheckpointHeader,
    OperatingPoint,
    check_kind,
    read_checkpoint,
    read_header,
    weights_digest,
    write_checkpoint,
)
from haustra.models.detector import SlotDetector, build_model, default_config
from haustra.models.efficientnet import EfficientNetLite0
from haustra.models.losses import LossWeights, detection_loss
from haustra.models.predict import predict_slots, resolve_precision
from haustra.train.averaging import AveragedModel
from haustra.train.batches import strength_at, training_batches, with_waits
from haustra.train.config import TrainConfig
from haustra.train.optimiser import DetectorOptimiser
from haustra.train.schedule import learning_rate
from haustra.warehouse.order import epoch_order
from haustra.warehouse.reading import Split, Warehouse, open_warehouse

MAX_GRADIENT_NORM = 10.0
PRETRAINED_RATE = 0.2
"""Share of the learning rate that a pretrained backbone gets: it has less to learn, and to lose."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training made."""

    checkpoint_path: Path
    metrics_path: Path
    header: CheckpointHeader
    weights_sha256: str
    validation: BoxMetrics | None
    """Of the saved weights; None where the warehouse has no validation sample."""
    seconds: float
    """Of training; validating and saving come on top."""


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


def _begin_model(config: TrainConfig, *, max_boxes: int) -> SlotDetector:
    """Build the model: random, or with the weights that --pretrained or --init-from names."""
    if config.init_from is None:
        model = build_model(
            default_config(
                config.model,
                max_boxes=max_boxes,
                backbone="efficientnet-lite0" if config.pretrained else "plain",
            )
        )
        if isinstance(model.backbone, EfficientNetLite0):
            model.backbone.load_imagenet_weights()
        return model
    header, source = read_checkpoint(config.init_from)
    check_kind(config.init_from, header=header, wanted=config.model)
    # The number of slots is no weight: it may change with the warehouse.
    num_slots = 1 if header.model.kind == "tiny" else max_boxes
    model = build_model(replace(header.model, num_slots=num_slots))
    model.load_state_dict(source.state_dict())
    return model


def train_detector(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train TinyDet or BigDet and write its checkpoint and metrics.

    The saved weights are the moving average at the end (and, until then, at the last validation).
    The same seed and `epochs` give the same weights, byte for byte, on one machine.

    Raises:
        HaustraError: the warehouse or a setting is wrong, or the loss is not finite.
    """
    progress = progress or SilentProgress()

    # Check everything before long work.
    _check_target(config)
    warehouse = open_warehouse(config.manifest, config=config.store_config)
    split = _open_training_split(config, warehouse=warehouse)
    validation_split = warehouse.split("val")
    manifest = split.manifest
    precision = resolve_precision(config.precision)
    for path in (config.checkpoint_path, config.metrics_path):
        path.parent.mkdir(parents=True, exist_ok=True)

    # Set up.
    keep_freed_memory()
    torch.manual_seed(config.seed)
    model = _begin_model(config, max_boxes=manifest.max_boxes).train()
    average = AveragedModel(model)
    optimiser = DetectorOptimiser(
        model,
        weight_decay=config.weight_decay,
        backbone_rate=PRETRAINED_RATE if config.pretrained else 1.0,
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )
    steps_per_epoch = -(-len(split) // config.batch_size)
    num_epochs, budget_s = config.num_epochs, config.time_budget_s
    operating_point = OperatingPoint()
    progress.line(
        f"{config.model}det: {count_parameters(model):,} parameters, {len(split)} training images "
        f"with {split.num_boxes} boxes, {len(validation_split)} validation images, "
        f"{manifest.target_size_wh[0]}x{manifest.target_size_wh[1]}, {precision}"
    )
    if not len(validation_split):
        progress.line("the warehouse has no validation sample: average precision is not computed")
    history: list[dict[str, Any]] = []
    validation: BoxMetrics | None = None
    header: CheckpointHeader | None = None
    epoch, finished = 0, False
    started, validating_s = time.monotonic(), 0.0

    def share_done(step: int) -> float:
        if budget_s is not None:
            return (time.monotonic() - started - validating_s) / budget_s
        return step / (steps_per_epoch * (num_epochs or 1))

    progress.start(f"train {config.model}det", total=1.0)
    try:
        with config.metrics_path.open("w") as metrics_file:
            while not finished:
                # One epoch.
                done = share_done(epoch * steps_per_epoch)
                sums: dict[str, float] = defaultdict(float)
                epoch_started, num_steps, num_images, waited_s = time.monotonic(), 0, 0, 0.0
                batches = training_batches(
                    split,
                    order=epoch_order(
                        split.shard_sizes,
                        seed=config.seed,
                        epoch=epoch,
                        window_size=config.shuffle_window,
                    ),
                    batch_size=config.batch_size,
                    seed=config.seed,
                    epoch=epoch,
                    strength=strength_at(done) if config.augment else None,
                )
                for (indices, batch), wait_s in with_waits(batches):
                    waited_s += wait_s
                    step = epoch * steps_per_epoch + num_steps
                    done = min(1.0, share_done(step))
                    rate = learning_rate(
                        done,
                        start=config.lr_start,
                        end=config.lr_end,
                        scheduler=config.scheduler,
                    )
                    optimiser.set_rate(rate)

                    # One step.
                    images = images_to_input(torch.from_numpy(batch.images))
                    boxes = torch.from_numpy(batch.boxes_xyxy)
                    mask = torch.from_numpy(batch.mask).bool()
                    # Rows that no image of the batch uses would only cost time.
                    rows = mask.any(dim=0).nonzero()
                    used = int(rows[-1]) + 1 if len(rows) else 1
                    with torch.autocast(
                        "cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"
                    ):
                        output = model.dense(images, selector_share=done)
                    terms = detection_loss(
                        output,
                        boxes_xyxy=boxes[:, :used],
                        mask=mask[:, :used],
                        weights=LossWeights(iou=config.iou_weight),
                    )
                    loss = terms["loss"]
                    if not torch.isfinite(loss):
                        names = [split.sample_ids()[index] for index in indices[:4]]
                        raise HaustraError(
                            f"the loss is {float(loss.detach())} at epoch {epoch + 1}, step "
                            f"{num_steps + 1} (batch with {', '.join(names)}); lower --lr-start "
                            f"{config.lr_start} or pass --precision float32"
                        )
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
                    optimiser.step()
                    average.update(model)

                    # Tell.
                    num_steps += 1
                    num_images += len(indices)
                    for name, value in terms.items():
                        sums[name] += float(value.detach())
                    done = share_done(step + 1)
                    note = f"epoch {epoch + 1}, loss {sums['loss'] / num_steps:.3f}"
                    progress.update(min(1.0, done), note=note)
                    if config.log_interval and (step + 1) % config.log_interval == 0:
                        progress.line(f"step {step + 1}: loss {float(loss.detach()):.4f}")
                    if budget_s is not None and done >= 1:
                        finished = True
                        break

                # End of the epoch.
                epoch += 1
                finished = finished or epoch == num_epochs
                seconds = time.monotonic() - epoch_started
                entry: dict[str, Any] = {
                    "epoch": epoch,
                    "step": (epoch - 1) * steps_per_epoch + num_steps,
                    "seconds": round(time.monotonic() - started - validating_s, 3),
                    "images_per_s": round(num_images / seconds, 2),
                    "stall": round(waited_s / seconds, 4),
                    "lr": rate,
                    **{name: value / num_steps for name, value in sums.items()},
                }
                text = f"epoch {epoch}: loss {entry['loss']:.4f}, lr {rate:.2e}"
                text += f", {entry['images_per_s']:.0f} images/s, stall {entry['stall']:.1%}"
                paused = time.monotonic()
                if finished or epoch % config.val_every == 0:
                    if len(validation_split):
                        validation = evaluate_split(
                            validation_split,
                            predict_slots=predict_slots(average.model),
                            threshold=operating_point.objectness,
                        ).metrics
                        entry["val"] = validation.to_json()
                        scores = validation.average_precision
                        text += _score_text(", val AP50", scores.ap50)
                        text += _score_text(", AP50-95", scores.ap50_95)
                    history.append(entry)
                    header = CheckpointHeader(
                        model=model.config,
                        input_size_wh=manifest.target_size_wh,
                        resize_mode=manifest.resize_mode,
                        max_boxes=manifest.max_boxes,
                        class_names=tuple(manifest.class_names),
                        warehouse_version=manifest.version,
                        training=config.to_json() | {"precision": precision},
                        history=history,
                        sources=[source.model_dump() for source in manifest.sources],
                        operating_point=operating_point,
                    )
                    write_checkpoint(
                        config.checkpoint_path, header=header, state=average.model.state_dict()
                    )
                else:
                    history.append(entry)
                metrics_file.write(json.dumps(entry) + "\n")
                metrics_file.flush()
                progress.line(text)
                validating_s += time.monotonic() - paused
    finally:
        progress.stop()
    if header is None:
        raise AssertionError("the last epoch always saves")
    return TrainResult(
        checkpoint_path=config.checkpoint_path,
        metrics_path=config.metrics_path,
        header=header,
        weights_sha256=weights_digest(average.model.state_dict()),
        validation=validation,
        seconds=time.monotonic() - started - validating_s,
    )


def _score_text(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {value:.3f}"
