"""A training's model, optimizer and position, and the one step that moves them together."""

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from haustra.core.ahead import CpuClock
from haustra.core.detections import PredictSlots, Slots
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_json_atomic
from haustra.models.checkpoint import check_kind, read_checkpoint
from haustra.models.detector import (
    BackboneKind,
    ModelConfig,
    SlotDetector,
    build_model,
    count_cells,
    default_config,
)
from haustra.models.efficientnet import PACKAGE, WEIGHTS_LICENSE, EfficientNetLite0
from haustra.models.losses import DeviceBatch
from haustra.models.predict import predict_slots
from haustra.training.batches import (
    EpochAugmentation,
    Uploader,
    epoch_augmentation,
    training_batches,
    uploaded_batches,
)
from haustra.training.config import TrainConfig
from haustra.training.device_augment import disturbed_batches, without_pixels
from haustra.training.learner import Learner, build_learner
from haustra.training.negatives import find_negatives
from haustra.training.optimizer import AveragedModel, DetectorOptimizer, learning_rate, select_part
from haustra.training.prepare import Prepared
from haustra.training.replicas import Replicas
from haustra.training.state import Position, TrainingState
from haustra.warehouse.dataset import Batch
from haustra.warehouse.format import WarehouseManifest
from haustra.warehouse.order import epoch_order

NumberedBatch = tuple[NDArray[np.int64], Batch | DeviceBatch]
"""Sample numbers and samples of a batch."""

STEPS_WORTH_COMPILING, SECONDS_WORTH_COMPILING = 2000, 600.0
"""Limits of `compile="auto"`: compiling takes a minute or two, too long for a short training."""


def begin_model(config: TrainConfig, *, max_boxes: int) -> tuple[SlotDetector, dict[str, Any]]:
    """Build the model: random, or with the weights of `pretrained` or `init_from`.

    Returns:
        The model, and source and license of its weights, as JSON values.
    """
    if config.init_from is None:
        backbone: BackboneKind = "efficientnet-lite0" if config.pretrained else "plain"
        shape = default_config(
            config.model,
            max_boxes=max_boxes,
            backbone=backbone,
            finest_stride=config.finest_stride,
        )
        model = build_model(shape)
        if isinstance(model.backbone, EfficientNetLite0):
            model.backbone.load_imagenet_weights()
            return model, {"source": f"ImageNet, {PACKAGE}", "licence": WEIGHTS_LICENSE}
        return model, {"source": f"random, seed {config.seed}", "licence": None}
    header, source = read_checkpoint(config.init_from)
    check_kind(config.init_from, header=header, wanted=config.model)
    # The number of slots is not a weight and follows the warehouse.
    num_slots = 1 if header.model.kind == "tiny" else max_boxes
    model = build_model(replace(header.model, num_slots=num_slots))
    model.load_state_dict(source.state_dict())
    return model, {
        "source": str(config.init_from),
        "weights_sha256": header.weights_sha256,
        "licence": [entry["licence"] for entry in header.sources],
        "trained_on": header.sources,
    }


def check_slots(model: ModelConfig, *, manifest: WarehouseManifest) -> None:
    """Check that the images have a cell for each slot of a detector."""
    width, height = manifest.target_size_wh
    num_cells = count_cells(model, size_wh=manifest.target_size_wh)
    if model.num_slots > num_cells:
        raise HaustraError(
            f"images of {width}x{height} have {num_cells} cells for the {model.num_slots} boxes of "
            f"BigDet; build a warehouse of larger images (`haustra etl --target-size`) or of at "
            f"most {num_cells} boxes (`--max-boxes`)"
        )


class Training:
    """Model, optimizer and position of a training; it alone changes its position.

    Args:
        prepared: Checked settings and data.
        state: State of an interrupted training of the same settings, to continue from.
    """

    def __init__(self, prepared: Prepared, *, state: TrainingState | None = None) -> None:
        self.config, self.split = config, split = prepared.config, prepared.split
        self.validation_split, self.backend = prepared.validation_split, prepared.backend
        self.device = self.backend.device
        torch.manual_seed(config.seed)
        if state is None:
            model, self.initial_weights = begin_model(config, max_boxes=split.manifest.max_boxes)
        else:
            model, self.initial_weights = build_model(state.model), state.initial_weights
        check_slots(model.config, manifest=split.manifest)
        self.model = model.train().to(self.device)
        self.average = AveragedModel(self.model, settings=config.recipe.averaging)
        self.optimizer = DetectorOptimizer(
            self.model, weight_decay=config.weight_decay, settings=config.recipe.optimizer
        )
        self.uploader = Uploader(self.device)
        self.negatives = find_negatives(split, share=config.negatives)
        self.position = Position()
        self.data_clock = CpuClock()
        self.best: dict[str, torch.Tensor] = {}
        """With `patience` the averaged weights of the best validation."""
        self.is_whole = True  # False while a step has changed some of the training and not all
        num_batches = -(-len(split) // config.batch_size)
        self.steps_per_epoch = -(-num_batches // config.accumulate)
        self.is_compiled = self._should_compile()
        self.replicas = Replicas(
            self.model,
            build_learner=self._build_learner,
            count=config.replicas or 1,
            batch_size=config.batch_size,
        )
        if state is not None:
            self._restore(state)

    def _build_learner(self, model: SlotDetector) -> Learner:
        return build_learner(
            model, config=self.config, backend=self.backend, is_compiled=self.is_compiled
        )

    def _should_compile(self) -> bool:
        if self.config.compile != "auto":
            return self.config.compile == "on"
        if self.backend.name != "cuda":
            return False
        if self.num_steps is None:
            return (self.config.time_budget_s or 0) >= SECONDS_WORTH_COMPILING
        return self.num_steps >= STEPS_WORTH_COMPILING

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        of_epoch = -(-self.position.num_batches // self.config.accumulate)
        return self.position.epoch * self.steps_per_epoch + of_epoch

    @property
    def num_steps(self) -> int | None:
        """Number of optimizer steps of the whole training; None where the time decides."""
        num_epochs = self.config.num_epochs
        return None if num_epochs is None else num_epochs * self.steps_per_epoch

    @property
    def steps_text(self) -> str:
        """Number of finished steps as text, such as `3 of 21`."""
        return f"{self.step} of {self.num_steps}" if self.num_steps else str(self.step)

    @property
    def share_done(self) -> float:
        """Share of the training that is done, from 0; may exceed 1 where the time decides."""
        budget_s = self.config.time_budget_s
        if budget_s is not None:
            return self.position.trained_s / budget_s
        return self.step / (self.num_steps or 1)

    @property
    def images_grow(self) -> bool:
        """True where the first epochs train on smaller images."""
        return self.config.augment and not self.replicas.compiles_each_size

    def augmentation(self) -> EpochAugmentation | None:
        """Return how the current epoch is augmented, or None for not at all."""
        if not self.config.augment:
            return None
        position, num_epochs = self.position, self.config.num_epochs
        start = position.share_at_epoch_start
        # The duration of an epoch is known after the first one, which may be the only one.
        halfway = 1.0
        if self.images_grow and num_epochs is not None:
            halfway = start + 0.5 / num_epochs
        elif self.images_grow and position.epoch:
            halfway = start + 0.5 * start / position.epoch
        return epoch_augmentation(
            self.config.recipe,
            size_wh=self.split.manifest.target_size_wh,
            done=start,
            epoch=position.epoch,
            halfway=halfway,
        )

    def batches(self) -> Generator[NumberedBatch, None, None]:
        """Open the batches that are left of the epoch, on the device that trains.

        A GPU also does the part of the augmentation that touches every pixel.
        """
        config, split, position = self.config, self.split, self.position
        if not position.num_batches:
            position.share_at_epoch_start = self.share_done
        augmentation = for_cpu = self.augmentation()
        on_gpu = self.device.type != "cpu"
        if augmentation is not None and on_gpu:
            for_cpu = augmentation._replace(strength=without_pixels(augmentation.strength))
        seed, epoch, window = config.seed, position.epoch, config.shuffle_window
        batches = training_batches(
            split,
            order=epoch_order(split.shard_sizes, seed=seed, epoch=epoch, window_size=window),
            batch_size=config.batch_size,
            seed=seed,
            epoch=epoch,
            augmentation=for_cpu,
            negatives=self.negatives,
            first_batch=position.num_batches,
            clock=self.data_clock,
        )
        if not on_gpu:
            return batches
        uploaded = uploaded_batches(batches, uploader=self.uploader)
        if augmentation is None:
            return uploaded
        strength = augmentation.strength
        return disturbed_batches(uploaded, strength=strength, seed=seed, epoch=epoch)

    def take_step(self, batches: Iterator[NumberedBatch]) -> float | None:
        """Take one optimizer step with the next `accumulate` batches.

        Returns:
            The loss, or None if no batch is left.

        Raises:
            HaustraError: The loss or the gradient is not finite; the weights have not moved.
        """
        started, cpu_started = time.monotonic(), time.process_time()
        config, position = self.config, self.position
        left = -(-len(self.split) // config.batch_size) - position.num_batches
        if not left:
            return None
        # The last step of an epoch may have fewer batches; each counts the same in its step.
        num_batches = min(config.accumulate, left)
        position.rate = learning_rate(min(1.0, self.share_done), config=config)
        self.optimizer.set_rate(position.rate)
        self.replicas.zero_grad()
        taken: list[NDArray[np.int64]] = []
        sums: dict[str, float] = {}
        for _ in range(num_batches):
            asked = time.monotonic()
            indices, batch = next(batches)
            self.is_whole = False  # a forward pass changes the running statistics
            position.waited_s += time.monotonic() - asked
            taken.append(indices)
            for name, value in self.backward(batch, weight=1 / num_batches).items():
                sums[name] = sums.get(name, 0.0) + value
            if not np.isfinite(sums["loss"]):
                raise self._not_finite("loss", sums["loss"], taken)
        self.replicas.collect()
        longest = config.recipe.optimizer.max_gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        if not torch.isfinite(norm):
            raise self._not_finite("gradient", float(norm), taken)
        self.optimizer.step(self.replicas.map)
        self.average.update(self.model)
        for name, total in sums.items():
            position.sums[name] = position.sums.get(name, 0.0) + total
        position.num_batches += len(taken)
        position.num_images += sum(len(indices) for indices in taken)
        seconds = time.monotonic() - started
        position.epoch_s += seconds
        position.trained_s += seconds
        position.cpu_s += time.process_time() - cpu_started
        position.data_cpu_s += self.data_clock.take()
        self.is_whole = True
        return sums["loss"] / len(taken)

    def backward(self, batch: Batch | DeviceBatch, *, weight: float = 1.0) -> dict[str, float]:
        """Add the gradient of a batch, times `weight`; return its loss and the loss's terms."""
        if isinstance(batch, Batch):
            batch = self.uploader.wait_for(self.uploader.upload(batch))
        return self.replicas.backward(batch, weight=weight)

    def epoch_entry(self) -> dict[str, Any]:
        """Return the history entry of the epoch whose last step is done, as JSON values."""
        position = self.position
        return {
            "epoch": position.epoch + 1,
            "step": self.step,
            "seconds": round(position.trained_s, 3),
            "images_per_s": round(position.num_images / position.epoch_s, 2),
            "data_cpu": round(position.data_cpu_s / max(position.cpu_s, 1e-9), 4),
            "stall": round(position.waited_s / position.epoch_s, 4),
            "lr": position.rate,
            **{name: value / position.num_batches for name, value in position.sums.items()},
        }

    def is_better(self, score: float | None) -> bool:
        """Return whether a validation's AP50-95 is better than the best so far."""
        best = self.position.best_score
        return score is None or best is None or score > best + self.config.patience_min_delta

    def end_epoch(self, entry: dict[str, Any]) -> None:
        """Move to the next epoch.

        Args:
            entry: The epoch's entry, with "val" if it was validated.
        """
        position = self.position
        best, waited = position.best_score, position.validations_since_best
        best_epoch = position.best_epoch
        if "val" in entry:
            score = entry["val"]["average_precision"]["ap50_95"]
            waited += 1
            if self.is_better(score):
                best, best_epoch, waited = score, entry["epoch"], 0
        # One assignment: an interrupt finds the epoch either done or not yet ended.
        self.position = Position(
            epoch=position.epoch + 1,
            rate=position.rate,
            trained_s=position.trained_s,
            history=[*position.history, entry],
            best_score=best,
            best_epoch=best_epoch,
            validations_since_best=waited,
        )

    def keep_average(self) -> None:
        """Keep a copy of the averaged weights of this moment as the best ones."""
        state = self.average.model.state_dict()
        self.best = {name: value.detach().cpu().clone() for name, value in state.items()}

    @property
    def chosen_weights(self) -> dict[str, torch.Tensor]:
        """The weights that the checkpoint holds: the average, with `patience` the best one."""
        return self.best if self.config.patience else self.average.model.state_dict()

    @property
    def is_time_up(self) -> bool:
        """True if the epoch has begun and no step of the training is left."""
        return bool(self.position.num_batches) and self.share_done >= 1

    @property
    def is_finished(self) -> bool:
        """True if no epoch is left, or validations have stopped to improve."""
        position, patience = self.position, self.config.patience
        if patience and position.validations_since_best >= patience:
            return True
        return self.share_done >= 1 and not position.num_batches

    def build_predictor(self) -> PredictSlots:
        """Return a function that predicts with the averaged weights of this moment."""
        predict = predict_slots(self.average.model.to(self.backend.device))
        replicas = self.replicas

        def predict_shares(images: NDArray[np.uint8]) -> Slots:
            shares = [images[rows] for rows in replicas.split(len(images))]
            boxes, scores = zip(*replicas.map(predict, shares), strict=True)
            return np.concatenate(boxes), np.concatenate(scores)

        return predict_shares

    def _not_finite(self, what: str, value: float, taken: list[NDArray[np.int64]]) -> HaustraError:
        """Save the sample ids of a step, and return the error that names them."""
        ids = self.split.sample_ids()
        names = [ids[index] for indices in taken for index in indices]
        path = self.config.run_folder / "nonfinite_batch.json"
        epoch, step = self.position.epoch + 1, self.step % self.steps_per_epoch + 1
        place = {"epoch": epoch, "step": step, "lr": self.position.rate, "sample_ids": names}
        write_json_atomic(path, value={"not_finite": what, "value": str(value), **place})
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return HaustraError(
            f"the {what} is {value} at epoch {epoch}, step {step} (batch with "
            f"{', '.join(names[:4])}{more}; all in {path}); lower "
            f"{option('lr_start', self.config.lr_start)} or use {option('precision', 'float32')}"
        )

    def state(self) -> TrainingState:
        """Return everything that continuing needs; it shares memory with the training."""
        parts = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "best": self.best,
            "optimiser": self.optimizer.memory(),
            "random": {"torch": torch.get_rng_state()},
        }
        return TrainingState(
            position=self.position,
            model=self.model.config,
            initial_weights=self.initial_weights,
            settings=self.config.to_json(),
            warehouse_version=self.split.manifest.version,
            average_steps=self.average.steps,
            tensors={
                f"{part}.{name}": tensor
                for part, tensors in parts.items()
                for name, tensor in tensors.items()
            },
        )

    def _restore(self, state: TrainingState) -> None:
        self.model.load_state_dict(select_part(state.tensors, "model"))
        self.replicas.send_statistics()
        self.average.model.load_state_dict(select_part(state.tensors, "average"))
        self.best = select_part(state.tensors, "best")
        self.average.steps = state.average_steps
        self.optimizer.remember(select_part(state.tensors, "optimiser"))
        torch.set_rng_state(state.tensors["random.torch"])
        self.position = Position(**asdict(state.position))
