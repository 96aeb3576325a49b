"""Image and mask folders, the layout of Kvasir-SEG, CVC-ClinicDB, ETIS and PolypGen."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.importers.dataset import DatasetConfig, ImportResult, split_names
from haustra.captures.importers.paired import import_pairs
from haustra.captures.importers.records import Annotation, SourceBox
from haustra.core.checked import CountFromOne
from haustra.core.errors import HaustraError, option
from haustra.core.images import IMAGE_SUFFIXES, decode_image_values, read_image_bytes
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

MASK_THRESHOLD = 127
"""Threshold of a mask with two levels and a smear of values between them."""
MOST_VALUES = 16
"""A lossless mask with more values is a smeared one or a picture, not one of classes."""
MOST_FLAT_PIXELS = 8
"""A smear has no area of one value between black and white; no mask of Kvasir-SEG has a pixel."""


@dataclass(frozen=True, kw_only=True)
class MaskImportConfig(DatasetConfig):
    """Settings of `haustra import masks`."""

    min_pixels: CountFromOne = 40
    """Components of the mask with fewer pixels are left out and counted."""
    mask_values: str | None = None
    """Mask values that are polyp, separated by commas: gray values such as 255, or colors such as
    ff0000. Needed if the masks have several besides black."""
    mask_name: str = "{stem}"
    """File name of a mask without its suffix, with {stem} for the image's: '{stem}_mask'."""

    class_option = "mask_values"

    @property
    def chosen_classes(self) -> frozenset[str] | None:
        """Mask values that are polyp; None for the only one."""
        values = self.mask_values and self.mask_values.lower().replace("#", "")
        return split_names(values) if values else None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_name.count("{stem}") != 1 or "/" in self.mask_name:
            raise HaustraError(
                f"{option('mask_name', self.mask_name)}: expected a file name with '{{stem}}' once"
            )


def import_masks(
    images: StrPath, masks: StrPath, *, config: MaskImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of masks.

    A mask is black but for its polyps. Each 8-connected component of one value with at least
    `min_pixels` pixels becomes a box. A mask of two values may have any values, in gray, color or
    alpha; the darker one is the background. Of a mask with smeared edges, as JPEG has them, the
    pixels above 127 are polyp.

    Raises:
        HaustraError: An image has no mask, a mask has no image, a file is unreadable, or the masks
            have several values and `mask_values` does not choose.
    """
    if to_path(images).resolve() == to_path(masks).resolve() and config.mask_name == "{stem}":
        raise HaustraError(
            f"{masks} is the folder of the images as well; expected two folders, or "
            f"{option('mask_name', '{stem}_mask')} for masks beside their images"
        )
    return import_pairs(
        images,
        masks,
        suffixes=IMAGE_SUFFIXES,
        noun="mask",
        read=partial(read_mask, min_pixels=config.min_pixels, chosen=config.chosen_classes),
        file_name=config.mask_name,
        config=config,
        progress=progress,
    )


def read_mask(
    path: Path,
    _size_wh: tuple[int, int],
    *,
    min_pixels: int = MaskImportConfig.min_pixels,
    chosen: frozenset[str] | None = None,
) -> Annotation:
    """Read the boxes of a mask; `import_masks` has the arguments."""
    data = read_image_bytes(path)
    pixels = _without_alpha(decode_image_values(data, name=str(path)))
    if not pixels.any() and _has_black_palette(data):
        raise HaustraError(
            f"{path} has a palette of several colors that are all black, which hides its values; "
            "expected a palette that shows them; save the mask in gray"
        )
    is_lossy = data.startswith(b"\xff\xd8") or (data.startswith(b"RIFF") and b"VP8 " in data)
    annotation = Annotation(size_wh=(pixels.shape[1], pixels.shape[0]))
    if data[:4] in (b"II*\0", b"MM\0*") and cv2.imcount(str(path)) > 1:
        annotation.hints.append("mask with several pages, of which the first is taken")
    num_small = 0
    for name, mask in _masks_by_value(pixels, path=path, is_lossy=is_lossy, chosen=chosen):
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        for x, y, width, height, area in stats[1:].tolist():  # row 0 is the background
            if area >= min_pixels:
                box = [x, y, x + width, y + height]
                annotation.boxes.append(SourceBox(box_px=box, class_name=name))
            else:
                num_small += 1
    annotation.hints += [f"component of fewer than {min_pixels} pixels, left out"] * num_small
    if num_small and not annotation.boxes:
        annotation.hints.append("mask with such components only, taken as a negative")
    return annotation


def _has_black_palette(data: bytes) -> bool:
    """Return True for a PNG file whose palette has several colors, all of them black."""
    start = data.find(b"PLTE")
    if not data.startswith(b"\x89PNG") or start < 4:
        return False
    size = int.from_bytes(data[start - 4 : start])
    return size > 3 and not any(data[start + 4 : start + 4 + size])


def _without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return gray values [H,W] if the color is gray, else the color [H,W,3].

    What is transparent is black. A mask that is in the alpha channel alone becomes gray.
    """
    if pixels.ndim == 2:
        return pixels
    color = pixels[:, :, :3]
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3]
        is_opaque = alpha > 0
        if is_opaque.any():
            color = color * is_opaque[:, :, None]
        if not color.any() and not is_opaque.all():
            return alpha
    return color[:, :, 2] if (color == color[:, :, 2:]).all() else color


def _masks_by_value(
    pixels: NDArray[Any], *, path: Path, is_lossy: bool, chosen: frozenset[str] | None
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the name of each value that is not the background, and where it is [H,W]."""
    if is_lossy and pixels.ndim == 3 and np.ptp(pixels, axis=2).max() <= 32:
        pixels = pixels[:, :, 2]
    if pixels.ndim == 3:
        width = 8 * pixels.itemsize
        codes = sum(
            pixels[:, :, channel].astype(np.int64) << width * channel for channel in range(3)
        )
    else:
        width, codes = 0, pixels
    values = np.unique(codes)
    if pixels.dtype.kind == "f" and (width or not np.isfinite(values).all()):
        raise HaustraError(
            f"{path} has {pixels.dtype} values in color or not finite; expected gray"
        )
    # Two values of a lossy mask may be noise in black.
    if is_lossy or (len(values) > 2 and chosen is None):
        noise, end = (3, 63) if is_lossy else (0, 8 if len(values) > MOST_VALUES else 0)
        is_gray = width == 0 and pixels.dtype == np.uint8
        if is_gray and (chosen is not None or _is_smeared(pixels, noise=noise, end=end)):
            return [("255", pixels > MASK_THRESHOLD)]
    if is_lossy or (len(values) > MOST_VALUES and chosen is None):
        listed = "in color" if width else f"from {values[0]:g} to {values[-1]:g}"
        raise HaustraError(
            f"{path} has {len(values)} values {listed}; expected black and white, or few values "
            f"in a lossless format such as PNG; choose with {option('mask_values', '255')} if "
            "white is polyp"
        )
    names = {
        value: f"{int(value):0{width * 3 // 4}x}" if width else f"{value:.9g}"
        for value in values.tolist()
    }
    background = {value for value in names if value == 0}
    if len(names) == 2 and not background:
        brightness = {value: float(pixels[codes == value][0].sum()) for value in names}
        background = {value for value in names if brightness[value] < max(brightness.values())}
    return [
        (name, codes == value)
        for value, name in names.items()
        if (chosen and name in chosen) or (value not in background and len(names) <= MOST_VALUES)
    ]


def _is_smeared(gray: NDArray[np.uint8], *, noise: int, end: int) -> bool:
    """Return whether values between black and white are at edges only; uint8 [H,W].

    Args:
        gray: The mask.
        noise: Most by which neighbors in a flat area differ.
        end: Most by which black and white differ from 0 and 255.
    """
    kernel = np.ones((3, 3), np.uint8)
    flat = gray[cv2.dilate(gray, kernel) - cv2.erode(gray, kernel) <= noise]
    num_between = np.count_nonzero((flat > end) & (flat < 255 - end))
    return bool(num_between <= MOST_FLAT_PIXELS and (gray.max() == 0 or gray.max() >= 255 - end))
