"""The second look of BigDet: each slot reads its own part of the finest map again.

A fixed grid over a box and a margin is sampled, and a small network estimates the IoU of the box
with a polyp, which helps to rank the slots, and how far its four sides are from the polyp's.

Sampling is separable: each line of the grid has weights on the rows or the columns of the map, so
that two matrix products read a grid. Only standard operators and static shapes.

Shapes: B batch, R boxes of an image, C channels, H and W of the map, G lines of the grid.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

GRID = 7
"""Lines of the grid in each direction."""
MARGIN = 1.3
"""Sides of the sampled area, as a multiple of the box's."""
READ_CHANNELS, HIDDEN_CHANNELS = 32, 64
LARGEST_MOVE = 0.5
"""Bound on the move of a side, as a share of the box's width or height."""


class SecondLook(NamedTuple):
    """Second opinion on boxes."""

    boxes_xyxy: Tensor  # [B,R,4] with their sides moved
    iou_logits: Tensor  # [B,R] IoU of the box as it was with a polyp's, before the sigmoid


def line_weights(low: Tensor, high: Tensor, *, size: int) -> Tensor:
    """Return the weights [B,R,G,size] of a grid's lines on the cells of a map along one axis.

    They are tents: lines that are close interpolate between two cells, and lines that are far apart
    average the cells around them. Beyond the image the map is zero.

    Args:
        low: [B,R] sides of the boxes, 0..1 in the image.
        high: [B,R] opposite sides.
        size: Number of cells.
    """
    steps = (torch.arange(GRID, device=low.device) + 0.5) / GRID - 0.5
    center, span = (low + high) / 2, (high - low) * MARGIN
    lines = (center[..., None] + span[..., None] * steps) * size
    cells = torch.arange(size, device=low.device) + 0.5
    width = (span * (size / GRID)).clamp(min=1.0)[..., None, None]
    return functional.relu(1 - (lines[..., None] - cells).abs() / width) / width


def box_sizes(boxes_xyxy: Tensor) -> Tensor:
    """Return width, height, width, height of boxes [B,R,4]: the length that each side may move."""
    sizes = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return torch.cat([sizes, sizes], dim=2)


def sample_grids(features: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Read a map [B,C,H,W] over boxes [B,R,4] in 0..1 of the image, as [B,R,G,G,C]."""
    batch, channels, height, width = features.shape
    by_row = line_weights(boxes_xyxy[..., 1], boxes_xyxy[..., 3], size=height).flatten(1, 2)
    rows = by_row @ features.permute(0, 2, 3, 1).flatten(2)
    rows = rows.reshape(batch, boxes_xyxy.shape[1], GRID, width, channels)
    by_column = line_weights(boxes_xyxy[..., 0], boxes_xyxy[..., 2], size=width)
    return by_column[:, :, None] @ rows


class Refiner(nn.Module):
    """Looks at boxes a second time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, READ_CHANNELS, 1)
        # Convolutions of 1x1: Muon trains kernels, and 8-bit graphs know them.
        self.read = nn.Conv2d(READ_CHANNELS * GRID * GRID, HIDDEN_CHANNELS, 1)
        self.mix = nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1)
        self.predict = nn.Conv2d(HIDDEN_CHANNELS, 5, 1)
        self.predict.bias = nn.Parameter(torch.zeros(5))
        nn.init.normal_(self.predict.weight, std=0.01)

    def forward(self, features: Tensor, boxes_xyxy: Tensor) -> SecondLook:
        """Look at boxes [B,R,4] in the finest map [B,C,H,W] of the pyramid."""
        grids = sample_grids(self.reduce(features), boxes_xyxy)
        hidden = functional.relu(self.read(grids.flatten(2)[:, :, None].permute(0, 3, 1, 2)))
        hidden = functional.relu(self.mix(hidden))
        raw = self.predict(hidden)[..., 0].float().transpose(1, 2)
        moved = boxes_xyxy + LARGEST_MOVE * raw[..., :4].tanh() * box_sizes(boxes_xyxy)
        return SecondLook(moved, raw[..., 4])
