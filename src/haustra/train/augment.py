"""Light augmentation of a batch: flips, quarter turns, scale and shift, colour.

A colonoscope has no up, so flips and turns give frames as real as the source. All geometry is one
affine map per image, applied once to the pixels and exactly to the boxes.

Shapes: B batch, M boxes, H and W of the image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from haustra.core.letterbox import PAD_VALUE

SCALE_RANGE = (0.75, 1.33)
SHIFT = 0.1
"""Largest shift, as a share of the image."""
GAIN = 0.2
"""Largest relative change of brightness, contrast and saturation."""
CHANNEL_GAIN = 0.08
"""Largest relative change of one colour channel: white balance differs between scopes."""
MIN_BOX_SHARE = 0.3
"""A box that keeps less of its area inside the image is dropped."""


class Augmented(NamedTuple):
    """An augmented batch."""

    images: Tensor
    """float32 [B,3,H,W] in 0..1."""
    boxes_xyxy: Tensor
    """[B,M,4] normalised to the image."""
    mask: Tensor
    """[B,M] bool."""


def _uniform(count: int, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _random_maps(count: int, *, square: bool, generator: torch.Generator) -> Tensor:
    """Return [count,2,3]: from centred coordinates (-1..1) of the new image to the old one."""
    flips = torch.randint(0, 2, (count, 2), generator=generator) * 2.0 - 1.0
    turned = torch.randint(0, 2, (count,), generator=generator).bool() & square
    zoom = _uniform(count, *map(math.log, SCALE_RANGE), generator=generator).exp()
    shift = _uniform(2 * count, -2 * SHIFT, 2 * SHIFT, generator=generator).reshape(count, 2)
    maps = torch.zeros(count, 2, 3)
    along, across = flips / zoom[:, None], torch.zeros(count, 2)
    maps[:, 0, 0], maps[:, 1, 1] = (
        torch.where(turned, across[:, 0], along[:, 0]),
        torch.where(turned, across[:, 1], along[:, 1]),
    )
    maps[:, 0, 1], maps[:, 1, 0] = (
        torch.where(turned, along[:, 0], across[:, 0]),
        torch.where(turned, along[:, 1], across[:, 1]),
    )
    maps[:, :, 2] = shift
    return maps


def _move_boxes(boxes_xyxy: Tensor, maps: Tensor) -> Tensor:
    """Apply the inverse of `maps` to boxes [B,M,4] in 0..1; the maps keep boxes upright."""
    linear, shift = maps[:, :, :2], maps[:, :, 2]
    inverse = torch.linalg.inv(linear)
    corners = (boxes_xyxy.reshape(*boxes_xyxy.shape[:2], 2, 2) * 2 - 1) - shift[:, None, None]
    moved = torch.einsum("bij,bmkj->bmki", inverse, corners)
    low, high = moved.amin(dim=2), moved.amax(dim=2)
    return (torch.cat([low, high], dim=2) + 1) / 2


def _recolour(images: Tensor, *, generator: torch.Generator) -> Tensor:
    count = len(images)

    def factor(spread: float, columns: int = 1) -> Tensor:
        values = _uniform(count * columns, 1 - spread, 1 + spread, generator=generator)
        return values.reshape(count, columns, 1, 1)

    gain = factor(GAIN) * factor(CHANNEL_GAIN, columns=3)
    contrast, saturation = factor(GAIN), factor(GAIN)
    grey = images.mean(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    # grey + s (x - grey), then mean + c (x - mean), then g x: one linear mix of x, grey and mean.
    mixed = images * (contrast * saturation) + grey * (contrast * (1 - saturation))
    return ((mixed + mean * (1 - contrast)) * gain).clamp(0, 1)


def augment_batch(
    images: Tensor, *, boxes_xyxy: Tensor, mask: Tensor, generator: torch.Generator
) -> Augmented:
    """Augment each image of a batch on its own.

    Args:
        images: float32 [B,3,H,W] in 0..1.
        boxes_xyxy: float32 [B,M,4] normalised to the image.
        mask: [B,M] bool.
        generator: the only source of randomness.
    """
    maps = _random_maps(len(images), square=images.shape[2] == images.shape[3], generator=generator)
    pad = PAD_VALUE / 255
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    # Outside is zero for grid_sample, so shift the pad value there and back.
    warped = functional.grid_sample(images - pad, grid, align_corners=False) + pad
    moved = _move_boxes(boxes_xyxy, maps)
    clipped = moved.clamp(0, 1)
    area = (moved[..., 2:] - moved[..., :2]).prod(dim=2)
    area_left = (clipped[..., 2:] - clipped[..., :2]).prod(dim=2)
    kept = mask & (area_left > MIN_BOX_SHARE * area)
    return Augmented(
        _recolour(warped, generator=generator).contiguous(memory_format=torch.channels_last),
        clipped * kept[..., None],
        kept,
    )
