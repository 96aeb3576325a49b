"""Matching of cells and labeled boxes.

`match_greedy` gives every box its own cell (exclusive, globally ordered by quality).
`match_top_cells` gives every box its best cells, for the dense heads.

Shapes: B batch, N cells, M labeled boxes (padded).
"""

import torch
from torch import Tensor

from haustra.models.loss_settings import QualityPowers


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the IoU of every pair, [B,N,M] in 0..1, for [B,N,4] and [B,M,4]."""
    # Axis by axis: ONNX Runtime computes a last dimension of two one number at a time.
    a_left, a_top, a_right, a_bottom = a_xyxy[:, :, None].unbind(-1)
    b_left, b_top, b_right, b_bottom = b_xyxy[:, None].unbind(-1)
    width = torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)
    height = torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)
    overlap = width.clamp(min=0) * height.clamp(min=0)
    area_a = (a_right - a_left).clamp(min=0) * (a_bottom - a_top).clamp(min=0)
    area_b = (b_right - b_left).clamp(min=0) * (b_bottom - b_top).clamp(min=0)
    return overlap / (area_a + area_b - overlap).clamp(min=1e-9)


def candidate_cells(
    cells_xy: Tensor, cell_sizes: Tensor, boxes_xyxy: Tensor, *, least_width_cells: float
) -> Tensor:
    """Return which cells may match a box: those whose center lies in it.

    Args:
        cells_xy: [N,2] centers of the cells.
        cell_sizes: [N,2] widths and heights of the cells.
        boxes_xyxy: [B,M,4] labeled boxes.
        least_width_cells: Smaller boxes are enlarged to this many cells around their center.

    Returns:
        [B,N,M] bool.
    """
    inside = []
    for axis in (0, 1):
        low, high = boxes_xyxy[:, None, :, axis], boxes_xyxy[:, None, :, axis + 2]
        reach = torch.maximum((high - low) / 2, least_width_cells / 2 * cell_sizes[:, None, axis])
        inside.append((cells_xy[:, None, axis] - (low + high) / 2).abs() <= reach)
    return inside[0] & inside[1]


def match_quality(
    logits: Tensor, iou: Tensor, *, possible: Tensor, powers: QualityPowers
) -> Tensor:
    """Return the quality of every pair of cell and box, [B,N,M], -1 where a pair cannot match.

    Args:
        logits: [B,N] scores before the sigmoid.
        iou: [B,N,M] result of `pairwise_iou`.
        possible: [B,N,M] bool, pairs that may match.
        powers: Exponents of score and IoU.
    """
    quality = logits.sigmoid()[:, :, None] ** powers.score * iou**powers.iou
    return quality.masked_fill(~possible, -1.0)


def match_greedy(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Match boxes to cells one to one, best pair of the image first.

    Args:
        quality: [B,N,M]; a negative value forbids the pair.

    Returns:
        [B,N] int64, the box of each cell, and [B,N] bool, true where it has one.
    """
    batch, _, num_boxes = quality.shape
    left = quality.clone()
    box_of_cell = torch.zeros_like(quality[..., 0], dtype=torch.int64)
    positive = torch.zeros_like(box_of_cell, dtype=torch.bool)
    rows = torch.arange(batch, device=quality.device)
    for _ in range(num_boxes):
        best, flat = left.flatten(1).max(dim=1)
        cell, box = flat // num_boxes, flat % num_boxes
        # A boolean index of rows would make a GPU wait for their number.
        box_of_cell[rows, cell] = torch.where(best >= 0, box, box_of_cell[rows, cell])
        positive[rows, cell] |= best >= 0
        left[rows, cell, :] = -1.0
        left[rows, :, box] = -1.0
    return box_of_cell, positive


def match_top_cells(quality: Tensor, *, num_top_cells: int) -> tuple[Tensor, Tensor]:
    """Give each box its best cells; a cell that several boxes want goes to the best pair.

    Args:
        quality: [B,N,M]; a negative value forbids the pair.
        num_top_cells: Cells that each box gets at most.

    Returns:
        [B,N] int64, the box of each cell, and [B,N] bool, true where it has one.
    """
    count = min(num_top_cells, quality.shape[1])
    threshold = quality.topk(count, dim=1).values[:, -1:]
    wanted = quality.masked_fill((quality < threshold) | (quality < 0), -1.0)
    best, box = wanted.max(dim=2)
    return box, best >= 0
