from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from haustra.core.errors import HaustraError
from haustra.models.predict import predict_slots
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.prepare import prepare_training
from haustra.training.replicas import default_replicas
from haustra.training.training import Training
from scenes import write_warehouse


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_for(manifest: Path, folder: Path, **changes: object) -> TrainConfig:
    settings = {
        "manifest": manifest,
        "model": "big",
        "backend": "cpu",
        "precision": "float32",
        "epochs": 1,
        "batch_size": 6,
        "replicas": 3,
        "checkpoint_out": folder / "detector.bin",
    }
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


def test_the_number_of_threads_changes_no_byte_and_is_restored(
    tmp_path: Path, manifest: Path, threads: None
) -> None:
    digests = set()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        result = train_detector(config_for(manifest, tmp_path / str(number)))
        digests.add(result.weights_sha256)
        assert torch.get_num_threads() == number
    assert len(digests) == 1


def test_the_gradient_is_the_mean_of_the_shares(tmp_path: Path, manifest: Path) -> None:
    prepared = prepare_training(config_for(manifest, tmp_path))
    # The last share is smaller than the others.
    rows = [np.arange(0, 2), np.arange(2, 4), np.arange(4, 5)]
    gradients, statistics, losses = [], [], []
    for own in rows:
        training = Training(prepared)
        losses.append(training.backward(prepared.split.gather(own))["loss"])
        gradients.append([weight.grad for weight in training.model.parameters()])
        statistics.append([value.clone() for value in training.model.buffers()])
    training = Training(prepared)
    loss = training.backward(prepared.split.gather(np.arange(5)), weight=0.5)["loss"]
    training.replicas.collect()
    shares = (0.4, 0.4, 0.2)
    assert loss == pytest.approx(np.dot(shares, losses), rel=1e-5)
    for weight, *each in zip(training.model.parameters(), *gradients, strict=True):
        if weight.grad is not None:
            expected = sum(s * g for s, g in zip(shares, each, strict=True) if g is not None)
            torch.testing.assert_close(weight.grad, 0.5 * expected)
    for value, *moved in zip(training.model.buffers(), *statistics, strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack(moved).mean(dim=0))
    # Nothing is left of a collected gradient in any replica.
    first = [weight.grad for weight in training.model.parameters()]
    training.replicas.zero_grad()
    training.backward(prepared.split.gather(np.arange(5)), weight=0.5)
    training.replicas.collect()
    for weight, before in zip(training.model.parameters(), first, strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, before)


def test_the_replicas_follow_the_weights(tmp_path: Path, manifest: Path) -> None:
    prepared = prepare_training(config_for(manifest, tmp_path))
    training = Training(prepared)
    assert training.take_step(training.batches()) is not None
    # Each share is the same two images, so each replica must find the same loss.
    alone = training.backward(prepared.split.gather(np.array([0, 1])))["loss"]
    thrice = training.backward(prepared.split.gather(np.array([0, 1] * 3)))["loss"]
    assert thrice == pytest.approx(alone, rel=1e-6)
    images = prepared.split.gather(np.arange(6)).images
    boxes, scores = training.build_predictor()(images)
    expected_boxes, expected_scores = predict_slots(training.average.model)(images)
    np.testing.assert_allclose(boxes, expected_boxes, atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_the_default_is_a_replica_per_core_with_four_images_each(threads: None) -> None:
    torch.set_num_threads(3)
    assert [default_replicas(size) for size in (1, 4, 8, 11, 12, 16)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"replicas": 7},
            "replicas=7: expected at most one for each image of a batch, batch_size=6",
        ),
        (
            {"compile": "on"},
            "replicas=3 with compile='on': expected 1, since replicas are for the CPU, and not for "
            "compiled models",
        ),
    ],
)
def test_replicas_that_cannot_be_are_refused(
    tmp_path: Path, manifest: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(HaustraError) as error:
        prepare_training(config_for(manifest, tmp_path, **changes))
    assert str(error.value) == message
