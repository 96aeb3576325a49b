"""TinyDet and BigDet on WebGPU against PyTorch; on Mesa's software Vulkan where there is no GPU."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from haustra.models.detector import ModelKind
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.optimizer import RunAll
from haustra.training.prepare import prepare_training
from haustra.training.recipe import FULL, AugmentationSettings, GrowthSettings, Recipe
from haustra.training.state import Position
from haustra.training.training import Training
from scenes import write_warehouse
from wgpu_adapters import needs_adapter

pytestmark = [pytest.mark.slow, needs_adapter]

NUM_STEPS = 30
NUM_STILL_STEPS = 5
"""The first ones, which do not move the weights: only their gradients are looked at."""
BATCH_SIZE = 4
NUM_FIRST_EPOCHS = 10
"""On the CPU, before the two part: matching the equal boxes of an untrained detector is a coin."""
RATE = 1e-4
"""With higher rates a difference in the last bit becomes several per cent within 30 steps, between
two trainings on the CPU as well: matching is a choice, and the statistics of BigDet's small maps
are noisy."""


RECIPE = Recipe(
    augmentation=AugmentationSettings(easy=FULL, light=FULL),
    growth=GrowthSettings(first_resolution=1.0),
)
"""The same images on both: on WebGPU they do not grow."""


@dataclass
class Trained:
    """A training on one backend."""

    training: Training
    gradients: list[dict[str, Tensor]]
    """Of the first batches, all by the weights that it began with."""
    losses: list[float]


def train_first(manifest: Path, *, kind: ModelKind) -> Path:
    """Train for a few epochs on the CPU; return the checkpoint."""
    config = TrainConfig(
        manifest=manifest,
        model=kind,
        precision="float32",
        batch_size=BATCH_SIZE,
        negatives=0.0,
        epochs=NUM_FIRST_EPOCHS,
        val_every=NUM_FIRST_EPOCHS,
        checkpoint_out=manifest.with_name(f"{kind}.bin"),
    )
    return train_detector(config).checkpoint


def train(manifest: Path, *, kind: ModelKind, init_from: Path, backend: str) -> Trained:
    config = TrainConfig(
        manifest=manifest,
        model=kind,
        backend=backend,  # type: ignore[arg-type]
        precision="float32",
        batch_size=BATCH_SIZE,
        negatives=0.0,  # the scenes have frames without a disc, and ties weigh more among few boxes
        lr_start=RATE,
        lr_end=RATE / 2,
        init_from=init_from,
        recipe=RECIPE,
        checkpoint_out=manifest.with_name("unused.bin"),
    )
    training = Training(prepare_training(config))
    gradients: list[dict[str, Tensor]] = []
    step = training.optimizer.step

    def remember(run: RunAll) -> None:
        if len(gradients) == NUM_STILL_STEPS:
            step(run)
            return
        gradients.append(
            {
                name: weight.grad.clone()
                for name, weight in training.model.named_parameters()
                if weight.grad is not None
            }
        )

    training.optimizer.step = remember  # type: ignore[assignment, method-assign]
    losses: list[float] = []
    while len(losses) < NUM_STEPS:
        epoch = training.position.epoch
        with closing(training.batches()) as batches:
            while len(losses) < NUM_STEPS:
                loss = training.take_step(batches)
                if loss is None:  # the epoch has no step left
                    break
                losses.append(loss)
        training.position = Position(epoch=epoch + 1)
    return Trained(training, gradients, losses)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.fixture(scope="module", params=["tiny", "big"])
def pair(request: pytest.FixtureRequest, manifest: Path) -> tuple[Trained, Trained]:
    """The same training on the CPU and on WebGPU."""
    first = train_first(manifest, kind=request.param)
    return (
        train(manifest, kind=request.param, init_from=first, backend="cpu"),
        train(manifest, kind=request.param, init_from=first, backend="wgpu"),
    )


def test_gradients_of_most_batches_agree(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    num_trained = sum(weight.requires_grad for weight in cpu.training.model.parameters())
    differences = []
    for of_cpu, of_wgpu in zip(cpu.gradients, wgpu.gradients, strict=True):
        assert of_cpu.keys() == of_wgpu.keys()
        assert len(of_cpu) == num_trained
        ours = torch.cat([gradient.flatten() for gradient in of_wgpu.values()])
        theirs = torch.cat([gradient.flatten() for gradient in of_cpu.values()])
        assert float(theirs.norm()) > 0
        differences.append(float((ours - theirs).norm() / theirs.norm()))
    # Where two cells fit a box equally well the last bit decides between them, so one batch may
    # differ by more: one thread of the CPU differs from two by up to 0.007.
    *most, largest = sorted(differences)
    assert max(most) < 1e-3, differences
    assert float(np.median(most)) < 1e-4, differences
    assert largest < 0.01, differences


def test_losses_of_thirty_steps_agree(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    np.testing.assert_allclose(wgpu.losses, cpu.losses, rtol=0.01)
    assert np.ptp(wgpu.losses) > 0.1 * np.mean(wgpu.losses)  # no two batches are alike


def test_batches_are_those_of_the_cpu(pair: tuple[Trained, Trained]) -> None:
    for trained in pair:
        trained.training.position = Position(epoch=1)
    of_both = [list(trained.training.batches()) for trained in pair]
    for (indices, batch), (other_indices, other) in zip(*of_both, strict=True):
        np.testing.assert_array_equal(indices, other_indices)
        np.testing.assert_array_equal(batch.images, other.images)
        np.testing.assert_array_equal(batch.boxes_xyxy, other.boxes_xyxy)


def test_running_statistics_move_as_on_the_cpu(pair: tuple[Trained, Trained]) -> None:
    cpu, wgpu = pair
    for name, value in cpu.training.model.state_dict().items():
        moved = wgpu.training.model.state_dict()[name]
        if name.endswith("num_batches_tracked"):
            assert moved == value > NUM_STEPS
        elif "running" in name:
            assert float((moved - value).norm() / value.norm()) < 0.02
