from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haustra.train.augment import augment_batch
from haustra.train.config import TrainConfig
from haustra.train.schedule import learning_rate


def white_rectangle(box: tuple[int, int, int, int], *, side: int) -> torch.Tensor:
    image = np.zeros((side, side, 3), dtype=np.float32)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 1.0
    return torch.from_numpy(image).permute(2, 0, 1)[None]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_boxes_move_with_their_pixels(seed: int) -> None:
    side, box = 128, (40, 52, 76, 70)
    images = white_rectangle(box, side=side)
    boxes = torch.tensor([[box]]) / side
    augmented = augment_batch(
        images,
        boxes_xyxy=boxes,
        mask=torch.ones(1, 1, dtype=torch.bool),
        generator=torch.Generator().manual_seed(seed),
    )
    # The padding is grey: the rectangle is what is brighter than it by far.
    bright = (augmented.images[0].min(dim=0).values > 0.62).numpy().astype(np.uint8)
    x, y, width, height = cv2.boundingRect(bright)
    found = np.array([x, y, x + width, y + height])
    assert bool(augmented.mask.all())
    np.testing.assert_allclose(augmented.boxes_xyxy[0, 0] * side, found, atol=1.6)


def test_all_flips_and_quarter_turns_occur() -> None:
    side = 64
    image = torch.zeros(1, 3, side, side)
    image[:, :, 8:24, 28:36] = 1.0  # upright, at the top
    boxes = torch.tensor([[[28.0, 8.0, 36.0, 24.0]]]) / side
    count = 200
    augmented = augment_batch(
        image.expand(count, -1, -1, -1),
        boxes_xyxy=boxes.expand(count, -1, -1),
        mask=torch.ones(count, 1, dtype=torch.bool),
        generator=torch.Generator().manual_seed(0),
    )
    size = augmented.boxes_xyxy[:, 0, 2:] - augmented.boxes_xyxy[:, 0, :2]
    lying = size[:, 0] > size[:, 1]
    assert 50 < int(lying.sum()) < 150
    centre = augmented.boxes_xyxy[:, 0].reshape(count, 2, 2).mean(dim=1)
    for turned in (False, True):
        axis = centre[lying == turned, 0 if turned else 1]
        assert (axis < 0.5).any()
        assert (axis > 0.5).any()


def test_a_box_that_leaves_the_image_is_dropped_and_one_that_stays_is_clipped() -> None:
    count = 300
    boxes = torch.tensor([[[0.0, 0.0, 0.05, 0.05], [0.0, 0.4, 0.5, 0.6]]]).expand(count, -1, -1)
    augmented = augment_batch(
        torch.rand(count, 3, 32, 32),
        boxes_xyxy=boxes,
        mask=torch.ones(count, 2, dtype=torch.bool),
        generator=torch.Generator().manual_seed(0),
    )
    assert 0 < int(augmented.mask[:, 0].sum()) < count
    assert (augmented.boxes_xyxy[~augmented.mask] == 0).all()
    assert ((augmented.boxes_xyxy >= 0) & (augmented.boxes_xyxy <= 1)).all()
    assert augmented.mask[:, 1].float().mean() > 0.9


def test_augmentation_is_a_function_of_its_generator() -> None:
    images, boxes = torch.rand(4, 3, 32, 32), torch.tensor([[[0.2, 0.2, 0.6, 0.7]]] * 4)
    mask = torch.ones(4, 1, dtype=torch.bool)

    def once(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment_batch(images, boxes_xyxy=boxes, mask=mask, generator=generator).images

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
def test_the_rate_rises_then_falls_from_start_to_end(scheduler: str) -> None:
    rates = [
        learning_rate(p, start=1e-3, end=1e-5, scheduler=scheduler)  # type: ignore[arg-type]
        for p in np.linspace(0, 1, 201)
    ]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(1e-5)
    assert rates[peak] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()


def test_the_settings_decide_where_the_files_go() -> None:
    config = TrainConfig(manifest=Path("m.json"), model="big")
    assert config.checkpoint_path == Path("checkpoints/bigdet.bin")
    assert config.metrics_path == Path("checkpoints/bigdet.metrics.jsonl")
    assert config.num_epochs == 60
    assert TrainConfig(manifest=Path("m"), time_budget="1.5m").time_budget_s == 90
