"""Image and mask folders, the layout of Kvasir-SEG and CVC-ClinicDB: a mask of the same stem."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.paired import import_pairs, list_source_images
from haustra.core.checked import CountFromOne
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.paths import StrPath
from haustra.core.progress import Progress

MASK_THRESHOLD = 127
"""Masks are often stored as JPEG, whose noise stays far from the middle."""
MAX_OF_CLASS_INDICES = 2
"""A mask that never exceeds this, but is not black, holds class indices, not gray values."""


@dataclass(frozen=True, kw_only=True)
class MaskImportConfig(ImportConfig):
    """Settings of `haustra import masks`."""

    min_pixels: CountFromOne = 40
    """Components of the mask with fewer pixels are not polyps."""


def import_masks(
    images: StrPath, masks: StrPath, *, config: MaskImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of masks.

    Each 8-connected component of at least `min_pixels` pixels above 127 becomes a box.

    Raises:
        HaustraError: An image has no mask, a mask has no image, or a file is unreadable.
    """
    return import_pairs(
        images,
        masks,
        list_files=list_source_images,
        noun="mask",
        read_boxes=partial(_boxes_of_mask, min_pixels=config.min_pixels),
        config=config,
        progress=progress,
    )


def _boxes_of_mask(mask_path: Path, size_wh: tuple[int, int], *, min_pixels: int) -> list[Any]:
    mask = read_image_rgb(mask_path)[:, :, 0]
    if (mask.shape[1], mask.shape[0]) != size_wh:
        raise HaustraError(
            f"{mask_path} is {mask.shape[1]}x{mask.shape[0]} but its image is "
            f"{size_wh[0]}x{size_wh[1]}; expected the same size"
        )
    if 0 < mask.max() <= MAX_OF_CLASS_INDICES:
        raise HaustraError(
            f"{mask_path} has no value above {mask.max()}; expected polyps in white (255), not as "
            "class indices"
        )
    _, _, stats, _ = cv2.connectedComponentsWithStats((mask > MASK_THRESHOLD).astype("uint8"))
    return [
        [int(x), int(y), int(x + width), int(y + height)]
        for x, y, width, height, area in stats[1:]  # row 0 is the background
        if area >= min_pixels
    ]
