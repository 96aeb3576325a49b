"""TinyDet and BigDet on WebGPU against PyTorch; on Mesa's software Vulkan where there is no GPU."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from haustra.backends.choose import choose_backend
from haustra.backends.predictors import build_predictor
from haustra.models.detector import ModelKind
from haustra.train.augment import FULL
from haustra.train.batches import WaitedBatch, training_batches, with_waits
from haustra.train.config import TrainConfig
from haustra.train.loop import prepare_training
from haustra.train.state import Position
from haustra.train.training import Training
from haustra.warehouse.order import epoch_order
from haustra.warehouse.reading import open_split
from scenes import write_warehouse
from wgpu_adapters import needs_adapter

pytestmark = [pytest.mark.slow, needs_adapter]

NUM_STEPS = 30
BATCH_SIZE = 4
RATES = {"tiny": 5e-4, "big": 1e-5}
"""With a higher rate a difference in the last bit becomes several per cent within 30 steps, between
two trainings on the CPU as well: matching is a choice, and the small maps' statistics are noisy."""


def batches_for(training: Training) -> Iterator[WaitedBatch]:
    """Augmented batches of as many epochs as are asked for, in the training's order."""
    for epoch in range(NUM_STEPS):
        order = epoch_order(training.split.shard_sizes, seed=0, epoch=epoch, window_size=64)
        batches = with_waits(
            training_batches(
                training.split,
                order=order,
                batch_size=BATCH_SIZE,
                seed=0,
                epoch=epoch,
                strength=FULL,
            )
        )
        with closing(batches):
            yield from batches


@dataclass
class Trained:
    """A training on one backend."""

    training: Training
    first_loss: float
    first_gradients: dict[str, Tensor]
    losses: list[float]


def train(manifest: Path, *, kind: ModelKind, backend: str) -> Trained:
    config = TrainConfig(
        manifest=manifest,
        model=kind,
        backend=backend,  # type: ignore[arg-type]
        precision="float32",
        batch_size=BATCH_SIZE,
        lr_start=RATES[kind],
        lr_end=RATES[kind] / 2,
        checkpoint_out=manifest.with_name("unused.bin"),
    )
    prepared = prepare_training(config)
    training = Training(prepared.config, split=prepared.split, backend=prepared.backend)
    batches = batches_for(training)
    # The gradients that the first step takes, before the optimiser clips and uses them.
    gradients: dict[str, Tensor] = {}
    step = training.optimiser.step

    def remember() -> None:
        if not gradients:
            gradients.update(
                {
                    name: weight.grad.clone()
                    for name, weight in training.model.named_parameters()
                    if weight.grad is not None
                }
            )
        step()

    training.optimiser.step = remember  # type: ignore[method-assign]
    losses = [next_loss(training, batches) for _ in range(NUM_STEPS)]
    return Trained(training, losses[0], gradients, losses)


def next_loss(training: Training, batches: Iterator[WaitedBatch]) -> float:
    """Take a step, of the next epoch where this one has none left."""
    loss = training.take_step(batches)
    if loss is None:
        training.position = Position(epoch=training.position.epoch + 1)
        loss = training.take_step(batches)
    assert loss is not None
    return loss


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.fixture(scope="module", params=["tiny", "big"])
def pair(request: pytest.FixtureRequest, manifest: Path) -> tuple[Trained, Trained]:
    """The same training on the CPU and on WebGPU."""
    return (
        train(manifest, kind=request.param, backend="ndarray"),
        train(manifest, kind=request.param, backend="wgpu"),
    )


def test_gradients_of_one_step_agree(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    assert cpu.first_gradients.keys() == wgpu.first_gradients.keys()
    assert len(cpu.first_gradients) == sum(
        weight.requires_grad for weight in cpu.training.model.parameters()
    )
    ours = torch.cat([gradient.flatten() for gradient in wgpu.first_gradients.values()])
    theirs = torch.cat([gradient.flatten() for gradient in cpu.first_gradients.values()])
    assert float(theirs.norm()) > 0
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


def test_losses_of_thirty_steps_agree_and_fall(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    np.testing.assert_allclose(wgpu.losses, cpu.losses, rtol=0.01)
    assert np.mean(wgpu.losses[-5:]) < 0.95 * np.mean(wgpu.losses[:5])


def test_running_statistics_move_as_on_the_cpu(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    for name, value in cpu.training.model.state_dict().items():
        moved = wgpu.training.model.state_dict()[name]
        if name.endswith("num_batches_tracked"):
            assert moved == value == NUM_STEPS
        elif "running" in name:
            assert float((moved - value).norm() / value.norm()) < 0.02


def test_what_wgpu_trained_predicts_the_same_on_both(
    pair: tuple[Trained, Trained], manifest: Path
) -> None:
    _, wgpu = pair
    model = wgpu.training.average.model
    split = open_split(manifest, split="train")
    found = []
    for name in ("ndarray", "wgpu"):
        # The batches have 3 images and then 1: the last is filled up on WebGPU.
        predict = build_predictor(model, backend=choose_backend(name))
        found.append([predict(split.gather(np.arange(*span)).images) for span in ((0, 3), (3, 4))])
    for (boxes, scores), (other_boxes, other_scores) in zip(*found, strict=True):
        assert boxes.shape == other_boxes.shape
        np.testing.assert_allclose(scores, other_scores, atol=1e-4)
        np.testing.assert_allclose(boxes, other_boxes, atol=1e-3)
