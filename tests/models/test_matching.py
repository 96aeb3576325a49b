import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haustra.core.boxes import iou_matrix
from haustra.models.matching import (
    candidate_cells,
    match_greedy,
    match_top_cells,
    pairwise_iou,
)


def random_quality(seed: int, *, batch: int, cells: int, boxes: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    quality = torch.rand(batch, cells, boxes, generator=generator)
    forbidden = torch.rand(batch, cells, boxes, generator=generator) < 0.3
    return quality.masked_fill(forbidden, -1.0)


def greedy_by_hand(quality: np.ndarray) -> list[int]:
    """Sort all pairs of one image, best first, and take each whose cell and box are free."""
    pairs = sorted(np.ndindex(quality.shape), key=lambda pair: -quality[pair])
    cell_of_box = [-1] * quality.shape[1]
    for cell, box in pairs:
        if quality[cell, box] >= 0 and cell not in cell_of_box and cell_of_box[box] == -1:
            cell_of_box[box] = cell
    return cell_of_box


def cells_of_boxes(quality: Tensor) -> list[list[int]]:
    """Return each box's cell by `match_greedy`, -1 where it has none; no box may have two."""
    box_of_cell, positive = match_greedy(quality)
    cells = torch.full((len(quality), quality.shape[2]), -1)
    for image, cell in positive.nonzero().tolist():
        box = box_of_cell[image, cell]
        assert cells[image, box] == -1
        cells[image, box] = cell
    return cells.tolist()


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_greedy_matching_is_exclusive_and_globally_ordered(
    seed: int, cells: int, boxes: int
) -> None:
    quality = random_quality(seed, batch=3, cells=cells, boxes=boxes)
    for image, found in zip(quality, cells_of_boxes(quality), strict=True):
        assert found == greedy_by_hand(image.numpy())


def test_two_boxes_that_want_one_cell_get_two_cells() -> None:
    quality = torch.tensor([[[0.9, 0.8], [0.1, 0.7], [0.2, 0.3]]])
    assert cells_of_boxes(quality) == [[0, 1]]


def test_a_box_without_any_allowed_cell_stays_unmatched() -> None:
    quality = torch.tensor([[[0.9, -1.0], [0.1, -1.0]]])
    assert cells_of_boxes(quality) == [[0, -1]]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5))
def test_top_cells_give_each_cell_at_most_one_box_and_its_best(
    seed: int, cells: int, boxes: int
) -> None:
    quality = random_quality(seed, batch=2, cells=cells, boxes=boxes)
    box_of_cell, positive = match_top_cells(quality, num_top_cells=10)
    for image, cell in np.ndindex(2, cells):
        if not positive[image, cell]:
            continue
        box = int(box_of_cell[image, cell])
        value = quality[image, cell, box]
        better = int((quality[image, :, box] > value).sum())
        assert value >= 0
        assert better < 10
    per_box = [
        int(((box_of_cell[image] == box) & positive[image]).sum())
        for image in range(2)
        for box in range(boxes)
    ]
    assert max(per_box) <= 10


def test_pairwise_iou_agrees_with_the_numpy_one() -> None:
    rng = np.random.default_rng(0)
    low, size = rng.random((2, 2, 7, 2)), rng.random((2, 2, 7, 2))
    boxes = np.concatenate([low, low + size], axis=-1)
    found = pairwise_iou(torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1]))
    for image in range(2):
        np.testing.assert_allclose(found[image], iou_matrix(boxes[0, image], boxes[1, image]))


@pytest.mark.parametrize("size", [0.001, 0.03, 0.5])
def test_every_box_has_a_candidate_cell_however_small(size: float) -> None:
    steps = (torch.arange(8) + 0.5) / 8
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    cells = torch.stack([x, y], dim=-1).reshape(-1, 2)
    for center in np.random.default_rng(1).uniform(0.06, 0.94, (50, 2)):
        box = torch.tensor([[[*(center - size / 2), *(center + size / 2)]]]).float()
        candidates = candidate_cells(cells, torch.full((64, 2), 1 / 8), box, least_width_cells=1.5)
        assert candidates.any()
