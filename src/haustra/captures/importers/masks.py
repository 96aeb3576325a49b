"""Image and mask folders, as Kvasir-SEG and CVC-ClinicDB come: one mask per image, same stem."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    SourceFrame,
    import_frames,
    list_source_images,
)
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.progress import Progress
from haustra.core.ranges import check_whole_number

MASK_THRESHOLD = 127
"""Masks are often stored as JPEG, whose noise stays far from the middle."""
MAX_OF_CLASS_INDICES = 2
"""A mask that never exceeds this, but is not black, holds class numbers, not grey values."""


@dataclass(frozen=True, kw_only=True)
class MaskImportConfig(ImportConfig):
    """Settings of `haustra import masks`."""

    min_pixels: int = 40
    """Components of the mask with fewer pixels are not polyps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("min_pixels", self.min_pixels, low=1)


def _boxes_of_mask(mask_path: Path, *, size_wh: tuple[int, int], min_pixels: int) -> list[Any]:
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


def import_masks(
    images: Path, masks: Path, *, config: MaskImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of masks.

    Each 8-connected component of at least `min_pixels` pixels above 127 becomes a box.

    Raises:
        HaustraError: an image without a mask, a mask without an image, or an unreadable file.
    """
    image_paths = list_source_images(images)
    mask_of_stem = {path.stem: path for path in list_source_images(masks)}
    stems = {path.stem for path in image_paths}
    without_mask = sorted(stems - mask_of_stem.keys())
    without_image = sorted(mask_of_stem.keys() - stems)
    if without_mask:
        raise HaustraError(
            f"{len(without_mask)} image(s) of {images} have no mask in {masks}, such as "
            f"{without_mask[0]!r}; expected a mask of the same stem for every image"
        )
    if without_image:
        raise HaustraError(
            f"{len(without_image)} mask(s) of {masks} have no image in {images}, such as "
            f"{without_image[0]!r}; expected an image of the same stem for every mask"
        )

    def source_frame(image_path: Path) -> SourceFrame:
        mask_path = mask_of_stem[image_path.stem]
        return SourceFrame(
            image_path=image_path,
            name=image_path.name,
            read_boxes=lambda size_wh: _boxes_of_mask(
                mask_path, size_wh=size_wh, min_pixels=config.min_pixels
            ),
        )

    return import_frames(
        map(source_frame, image_paths),
        total=len(image_paths),
        config=config,
        default_name=images.resolve().parent.name,
        progress=progress,
    )
