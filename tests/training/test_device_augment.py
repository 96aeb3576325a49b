"""The device's part of augmentation, on the CPU: the same code runs on a GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from haustra.core.letterbox import PAD_VALUE
from haustra.training.augment import _recolor, augment_sample
from haustra.training.batches import Uploader, uploaded_batches
from haustra.training.device_augment import disturb_pixels, disturbed_batches, without_pixels
from haustra.training.recipe import FULL, LIGHT, AugmentStrength
from haustra.warehouse.dataset import Batch

NOTHING = replace(without_pixels(FULL), text=0.0, compression=0.0)


def smooth_images(count: int, *, size: int = 48) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (images * 200 + 20).byte().permute(0, 2, 3, 1).contiguous()


def disturb(images: Tensor, strength: AugmentStrength, *, seed: int = 0) -> Tensor:
    rngs = [np.random.default_rng([seed, row]) for row in range(len(images))]
    return disturb_pixels(
        images, strength=strength, rngs=rngs, generator=torch.Generator().manual_seed(seed)
    )


def test_zero_strength_changes_no_pixel() -> None:
    images = smooth_images(3)
    assert torch.equal(disturb(images, NOTHING), images)


def test_colors_change_as_on_the_cpu() -> None:
    images = smooth_images(6)
    strength = replace(FULL, speculars=0.0, blur=0.0, noise=0.0)
    changed = disturb(images, strength)
    for row, (image, ours) in enumerate(zip(images, changed, strict=True)):
        theirs = _recolor(image.numpy(), strength=strength, rng=np.random.default_rng([0, row]))
        # One rounding on the way here, two there.
        assert np.abs(ours.numpy().astype(int) - theirs.astype(int)).max() <= 3
        assert np.abs(ours.numpy().astype(int) - image.numpy().astype(int)).mean() > 1


@pytest.mark.parametrize("name", ["speculars", "blur", "noise"])
def test_each_change_changes_what_it_should(name: str) -> None:
    images = smooth_images(16)
    strength = {
        "speculars": replace(NOTHING, speculars=1.0),
        "blur": replace(NOTHING, blur=1.0),
        "noise": replace(NOTHING, noise=1.0),
    }[name]
    difference = disturb(images, strength).int() - images.int()
    assert (difference != 0).flatten(1).any(dim=1).all()
    if name == "speculars":  # bright spots, and not everywhere
        assert difference.min() >= 0
        assert difference.max() > 50
        assert float((difference > 10).float().mean()) < 0.2
    if name == "noise":  # of the size that was asked for, around zero
        assert abs(float(difference.float().mean())) < 1
        assert 2 < float(difference.float().std()) < 12


def test_blur_takes_detail_and_keeps_brightness() -> None:
    grain = torch.randint(0, 256, (8, 48, 48, 3), dtype=torch.uint8)
    blurred = disturb(grain, replace(NOTHING, blur=1.0))
    before, after = grain.float(), blurred.float()
    assert (after.std(dim=(1, 2, 3)) < 0.9 * before.std(dim=(1, 2, 3))).all()
    torch.testing.assert_close(
        after.mean(dim=(1, 2, 3)), before.mean(dim=(1, 2, 3)), atol=2, rtol=0
    )


def test_each_change_occurs_with_its_chance() -> None:
    images = smooth_images(200, size=16)
    changed = disturb(images, replace(NOTHING, noise=0.3))
    share = float((changed != images).flatten(1).any(dim=1).float().mean())
    assert 0.2 < share < 0.4


def test_the_same_sample_and_epoch_give_the_same_pixels() -> None:
    batch = Batch(
        smooth_images(4).numpy(),
        np.zeros((4, 1, 4), dtype=np.float32),
        np.zeros((4, 1), dtype=np.uint8),
    )

    def images(*, epoch: int) -> Tensor:
        uploaded = uploaded_batches(
            (item for item in [(np.arange(4), batch)]), uploader=Uploader(torch.device("cpu"))
        )
        [(_, moved)] = disturbed_batches(uploaded, strength=FULL, seed=3, epoch=epoch)
        return moved.images

    assert torch.equal(images(epoch=0), images(epoch=0))
    assert not torch.equal(images(epoch=0), images(epoch=1))


@pytest.mark.parametrize("strength", [FULL, LIGHT])
def test_the_cpu_keeps_the_geometry(strength: AugmentStrength) -> None:
    image = np.full((48, 48, 3), 90, dtype=np.uint8)
    left = replace(without_pixels(strength), text=0.0, compression=0.0, paste=0.0)
    moved, _ = augment_sample(
        lambda _: (image, np.zeros((0, 4))),
        0,
        partners=np.arange(1),
        strength=left,
        rng=np.random.default_rng(1),
    )
    # Pixels of the image keep their value; the others are the letterbox's gray, or between.
    assert (moved == 90).mean() > 0.3
    assert moved.min() >= 90
    assert moved.max() <= PAD_VALUE
