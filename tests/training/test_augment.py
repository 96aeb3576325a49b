import dataclasses
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haustra.training.augment import ReadSample, augment_sample, batch_samples, resized
from haustra.training.batches import EpochAugmentation, epoch_augmentation, training_batches
from haustra.training.config import TrainConfig
from haustra.training.optimizer import learning_rate
from haustra.training.recipe import EASY, FULL, LIGHT, AugmentStrength, Recipe
from haustra.warehouse.dataset import open_split
from haustra.warehouse.order import epoch_order
from scenes import write_warehouse

SIDE = 128
GEOMETRY = dataclasses.replace(
    LIGHT,
    gain=0.0,
    channel_gain=0.0,
    gamma=0.0,
    blur=0.0,
    noise=0.0,
    compression=0.0,
    speculars=0.0,
    text=0.0,
)
"""Pixels keep their values, so that a white rectangle stays one."""


def white_rectangle(box: tuple[int, int, int, int]) -> ReadSample:
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return lambda index: (image, np.array([box], dtype=np.float64))


def augment(
    read: ReadSample, *, strength: AugmentStrength, seed: int, num_samples: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return augment_sample(read, 0, partners=np.arange(num_samples), strength=strength, rng=rng)


def bright_boxes(image: NDArray[np.uint8]) -> list[list[int]]:
    _, _, stats, _ = cv2.connectedComponentsWithStats((image.min(axis=2) > 184).astype(np.uint8))
    return sorted([x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_boxes_move_with_their_pixels(seed: int) -> None:
    strength = dataclasses.replace(GEOMETRY, scale=(0.6, 1.3), stretch=0.1)
    image, boxes = augment(white_rectangle((40, 52, 76, 70)), strength=strength, seed=seed)
    np.testing.assert_allclose(boxes, bright_boxes(image), atol=1.6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_the_box_of_a_turned_polyp_is_that_of_its_ellipse(seed: int) -> None:
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    cv2.ellipse(image, (64, 60), (30, 14), 0, 0, 360, (255, 255, 255), cv2.FILLED)
    box = np.array([[33.5, 45.5, 95.5, 75.5]])
    strength = dataclasses.replace(GEOMETRY, scale=(0.8, 1.0), shift=0.05, turn=1.0, turn_deg=45.0)
    turned, boxes = augment(lambda index: (image, box), strength=strength, seed=seed)
    np.testing.assert_allclose(boxes, bright_boxes(turned), atol=2.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_a_mosaic_has_the_boxes_that_are_left_of_its_four_parts(seed: int) -> None:
    strength = dataclasses.replace(GEOMETRY, mosaic=1.0, shift=0.0)
    image, boxes = augment(white_rectangle((54, 54, 74, 74)), strength=strength, seed=seed)
    assert len(boxes) == 4
    found = np.array(bright_boxes(image))
    assert len(found) == 4
    apart = np.abs(boxes[:, None] - found[None]).max(axis=2)
    assert sorted(apart.argmin(axis=1).tolist()) == [0, 1, 2, 3]
    assert apart.min(axis=1).max() <= 1.6


def test_a_pasted_polyp_gets_a_box_and_covers_none() -> None:
    dark = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    red = np.full((SIDE, SIDE, 3), (250, 60, 60), dtype=np.uint8)
    own, donated = np.array([[10.0, 10.0, 60.0, 60.0]]), np.array([[30.0, 30.0, 90.0, 80.0]])

    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        return (dark, own) if index == 0 else (red, donated)

    strength = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), shift=0.0, paste=1.0)
    num_pasted = 0
    for seed in range(60):
        image, boxes = augment(read, strength=strength, seed=seed, num_samples=2)
        assert 1 <= len(boxes) <= 2
        if len(boxes) == 1:
            assert not image.any()  # no room, or its own black polyp: nothing to see
            continue
        assert np.minimum(boxes[0, 2:], boxes[1, 2:]).min() > 0
        overlap = np.minimum(boxes[0, 2:], boxes[1, 2:]) - np.maximum(boxes[0, :2], boxes[1, :2])
        smaller = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).min()
        assert overlap.clip(0).prod() < 0.05 * smaller
        x, y = ((boxes[1, :2] + boxes[1, 2:]) / 2).astype(int)
        if image[y, x, 0] > 100:
            num_pasted += 1
            outside = image.copy()
            x0, y0, x1, y1 = boxes[1].round().astype(int)
            margin = 8
            outside[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = 0
            assert outside.max() < 20
    assert num_pasted > 10


def test_all_flips_and_quarter_turns_occur() -> None:
    read = white_rectangle((56, 16, 72, 48))  # upright, at the top
    strength = dataclasses.replace(GEOMETRY, shift=0.0)
    boxes = np.concatenate([augment(read, strength=strength, seed=seed)[1] for seed in range(200)])
    size, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    lying = size[:, 0] > size[:, 1]
    assert 50 < int(lying.sum()) < 150
    for turned in (False, True):
        axis = center[lying == turned, 0 if turned else 1]
        assert (axis < SIDE / 2).any()
        assert (axis > SIDE / 2).any()


def test_a_box_that_leaves_the_image_is_dropped_and_one_that_stays_is_clipped() -> None:
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    corner, edge = [0.0, 0.0, 8.0, 8.0], [0.0, 50.0, 64.0, 78.0]
    results = [
        augment(lambda index: (image, np.array([corner, edge])), strength=GEOMETRY, seed=seed)[1]
        for seed in range(300)
    ]
    counts = [len(boxes) for boxes in results]
    assert counts.count(1) > 50
    assert counts.count(2) > 50
    assert counts.count(0) < 30
    boxes = np.concatenate(results)
    assert ((boxes >= 0) & (boxes <= SIDE)).all()


@pytest.mark.parametrize("strength", [FULL, LIGHT], ids=["full", "light"])
def test_augmentation_depends_on_its_generator_alone(strength: AugmentStrength) -> None:
    noise = np.random.default_rng(0).integers(0, 255, size=(6, 64, 64, 3), dtype=np.uint8)

    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        return noise[index], np.array([[12.0, 14.0, 40.0, 44.0]])

    for seed in range(40):
        image, boxes = augment(read, strength=strength, seed=seed, num_samples=6)
        again, same = augment(read, strength=strength, seed=seed, num_samples=6)
        assert image.dtype == np.uint8
        assert image.shape == (64, 64, 3)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(boxes, same)
        other, _ = augment(read, strength=strength, seed=seed + 1000, num_samples=6)
        assert (image != other).any()


@pytest.mark.parametrize(
    "kind", ["blur", "noise", "compression", "speculars", "text", "gain", "gamma"]
)
def test_each_change_of_the_pixels_changes_them_and_no_box(kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(40, 200, size=(64, 64, 3), dtype=np.uint8)
    box = np.array([[12.0, 14.0, 40.0, 44.0]])
    still = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), shift=0.0)
    extent: dict[str, Any] = {kind: 0.3 if kind in {"gain", "gamma"} else 1.0}
    strong = dataclasses.replace(still, **extent)
    num_changed = 0
    for seed in range(20):
        plain, boxes = augment(lambda index: (noise, box), strength=still, seed=seed)
        changed, same = augment(lambda index: (noise, box), strength=strong, seed=seed)
        np.testing.assert_array_equal(boxes, same)
        num_changed += bool((plain != changed).any())
    assert num_changed >= 18


def test_stacked_samples_are_padded_to_the_largest_number_of_boxes() -> None:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    three = np.array([[0.0, 0.0, 10.0, 5.0]] * 3)
    batch = batch_samples([(image, three), (image, np.zeros((0, 4)))])
    assert batch.boxes_xyxy.shape == (2, 3, 4)
    np.testing.assert_allclose(batch.boxes_xyxy[0, 0], [0, 0, 0.25, 0.25])
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch_samples([(image, np.zeros((0, 4)))]).mask.tolist() == [[0]]


def test_the_batches_of_an_epoch_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(write_warehouse(tmp_path), split="train")

    def epoch_with(num_cpus: int, *, epoch: int) -> list[bytes]:
        monkeypatch.setattr("os.cpu_count", lambda: num_cpus)
        order = epoch_order(split.shard_sizes, seed=1, epoch=epoch)
        batches = training_batches(
            split,
            order=order,
            batch_size=3,
            seed=1,
            epoch=epoch,
            augmentation=EpochAugmentation(FULL, (64, 64)),
        )
        return [batch.images.tobytes() + batch.boxes_xyxy.tobytes() for _, batch in batches]

    assert epoch_with(1, epoch=0) == epoch_with(16, epoch=0)
    assert epoch_with(1, epoch=0) != epoch_with(1, epoch=1)


def test_a_smaller_image_has_the_same_boxes() -> None:
    read = resized(white_rectangle((32, 48, 96, 80)), size_wh=(64, 64))
    still = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), shift=0.0)
    image, boxes = augment(read, strength=still, seed=3)
    assert image.shape == (64, 64, 3)
    np.testing.assert_allclose(boxes, bright_boxes(image), atol=1.0)


def augmentation_at(done: float, *, epoch: int = 0, halfway: float = 1.0) -> EpochAugmentation:
    return epoch_augmentation(Recipe(), size_wh=(256, 192), done=done, epoch=epoch, halfway=halfway)


def test_images_grow_to_their_stored_size() -> None:
    sizes = [augmentation_at(done, halfway=done).size_wh for done in np.linspace(0, 1, 50)]
    assert sizes == sorted(sizes)
    # In steps of 64 pixels; an image that would not be smaller on both sides is left alone.
    assert set(sizes) == {(128, 128), (192, 128), (256, 192)}
    assert set(sizes[30:]) == {(256, 192)}


def test_augmentation_grows_with_the_epochs_and_is_light_at_the_end() -> None:
    first, middle, last = (augmentation_at(0.5, epoch=epoch).strength for epoch in (0, 25, 50))
    assert (first, last) == (EASY, FULL)
    assert EASY.gain < middle.gain < FULL.gain
    assert middle.gain == pytest.approx((EASY.gain + FULL.gain) / 2)
    assert middle.scale == FULL.scale
    assert augmentation_at(0.69, epoch=500).strength == FULL
    for done in (0.71, 1.0):
        assert augmentation_at(done, epoch=25).strength is LIGHT


@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
def test_the_rate_rises_then_falls_from_start_to_end(scheduler: str) -> None:
    config = TrainConfig(manifest="m.json", lr_start=1e-3, lr_end=1e-5, scheduler=scheduler)  # type: ignore[arg-type]
    rates = [learning_rate(p, config=config) for p in np.linspace(0, 1, 201)]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(1e-5)
    assert rates[peak] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()


def test_the_settings_decide_where_the_files_go() -> None:
    config = TrainConfig(manifest=Path("m.json"), model="big")
    assert config.checkpoint_path == Path("checkpoints/bigdet.bin")
    assert config.metrics_path == Path("checkpoints/bigdet.bin.run/metrics.jsonl")
    assert config.num_epochs == 60
    assert TrainConfig(manifest=Path("m"), time_budget="1.5m").time_budget_s == 90


DISTRIBUTION: dict[str, tuple[list[float], list[float], int, list[float]]] = {
    "full": (
        [113.27, 85.06, 74.62, 60.08, 47.27, 44.04, 23.93],
        [20.58, 18.49, 15.256, 12.634],
        1266,
        [25.55, 24.9, 51.3, 52.0],
    ),
    "light": (
        [113.96, 81.53, 69.82, 55.45, 40.31, 36.85, 24.66],
        [20.783, 17.969, 14.691, 12.326],
        600,
        [33.4, 33.18, 47.24, 46.55],
    ),
}
"""Mean and deviation of the channels and mean deviation of an image; logarithms of the spectrum's
power in four rings; number of boxes; mean sides and corners. Measured on 2026-11-27 of the version
that drew each pixel's noise and warped three channels."""


def smooth_scene(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a blurred random picture of colon-like colors, and a box."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, size=(12, 12, 3)) * (0.9, 0.6, 0.5)
    image = cv2.resize(coarse.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    corner, side = rng.uniform(10, 60, size=2), rng.uniform(15, 50, size=2)
    return np.asarray(image, dtype=np.uint8), np.concatenate([corner, corner + side])[None]


def test_the_stored_samples_stay_as_they_are() -> None:
    samples = [smooth_scene(index) for index in range(4)]
    for image, boxes in samples:
        image.flags.writeable = boxes.flags.writeable = False
    chances: Any = dict.fromkeys(("blur", "noise", "compression", "speculars", "text"), 1.0)
    for strength in (
        FULL,
        GEOMETRY,
        dataclasses.replace(GEOMETRY, paste=1.0),
        dataclasses.replace(FULL, **chances),
    ):
        for seed in range(10):
            augment(samples.__getitem__, strength=strength, seed=seed, num_samples=4)


def test_noise_is_new_in_each_sample_and_as_strong_as_before() -> None:
    gray = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    still = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), shift=0.0, noise=1.0)
    noises = [
        augment(lambda index: (gray, np.zeros((0, 4))), strength=still, seed=seed)[0] - 128.0
        for seed in range(200)
    ]
    deviations = np.array([noise.std() for noise in noises])
    neighbors = np.array([(n[:, 1:] * n[:, :-1]).mean() / n.var() for n in noises])
    assert max(abs(noise.mean()) for noise in noises) < 0.5
    is_coarse = neighbors > 0.3
    assert 0.4 < is_coarse.mean() < 0.6
    assert abs(neighbors[~is_coarse]).max() < 0.05
    # Uniform from 3 to 12; enlarging by two leaves 0.62 of it.
    for measured in (deviations[~is_coarse], deviations[is_coarse] / 0.62):
        assert 2.9 < measured.min() < 3.6
        assert 11 < measured.max() < 12.3
        assert measured.mean() == pytest.approx(7.5, abs=0.6)
    flat = np.array([noise.ravel() / noise.std() for noise in noises[:60]])
    correlations = np.abs(flat @ flat.T / flat.shape[1] - np.eye(60))
    # Two samples in a thousand may take nearly the same part of the stored noise.
    assert np.quantile(correlations, 0.998) < 0.05


@pytest.mark.parametrize(("name", "strength"), [("full", FULL), ("light", LIGHT)])
def test_images_and_boxes_are_distributed_as_ever(name: str, strength: AugmentStrength) -> None:
    results = [
        augment_sample(
            smooth_scene,
            index % 40,
            partners=np.arange(40),
            strength=strength,
            rng=np.random.default_rng([5, index]),
        )
        for index in range(600)
    ]
    images = np.stack([image for image, _ in results]).astype(np.float64)
    boxes = np.concatenate([boxes for _, boxes in results])
    gray = images.mean(axis=3)
    spectrum = np.abs(np.fft.rfft2(gray - gray.mean(axis=(1, 2), keepdims=True))) ** 2
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    edges = (0.01, 0.05, 0.1, 0.2, 0.5)
    bands = [
        np.log(spectrum[:, (radius >= low) & (radius < high)].mean())
        for low, high in itertools.pairwise(edges)
    ]
    levels = [
        *images.mean(axis=(0, 1, 2)),
        *images.std(axis=(0, 1, 2)),
        gray.std(axis=(1, 2)).mean(),
    ]
    sides = [*(boxes[:, 2:] - boxes[:, :2]).mean(axis=0), *boxes[:, :2].mean(axis=0)]
    expected_levels, expected_bands, expected_boxes, expected_sides = DISTRIBUTION[name]
    np.testing.assert_allclose(levels, expected_levels, rtol=0.01)
    np.testing.assert_allclose(bands, expected_bands, atol=0.05)
    assert len(boxes) == pytest.approx(expected_boxes, rel=0.02)
    np.testing.assert_allclose(sides, expected_sides, rtol=0.02)
