"""Pascal VOC annotations: an XML file per image, boxes in pixels counted from 1, ends included."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    import_images_with_files,
)
from haustra.core.errors import HaustraError
from haustra.core.paths import StrPath
from haustra.core.progress import Progress


def _boxes_of_annotation(path: Path, _size_wh: tuple[int, int]) -> list[Any]:
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 (expat limits entity expansion)
    except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:
        raise HaustraError(f"{path} is not XML ({error}); expected a VOC annotation") from None
    boxes = []
    for item in root.iter("object"):
        try:
            x0, y0, x1, y1 = (
                float(item.findtext(f"bndbox/{name}", "missing"))
                for name in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError:
            raise HaustraError(
                f"{path}: an object lacks a bndbox of four numbers xmin, ymin, xmax, ymax"
            ) from None
        # Pixel 1 of VOC covers 0..1 here, and the last pixel belongs to the box.
        boxes.append([x0 - 1, y0 - 1, x1, y1])
    return boxes


def import_voc(
    images: StrPath,
    annotations: StrPath,
    *,
    config: ImportConfig,
    progress: Progress | None = None,
) -> ImportResult:
    """Import a folder of images with a folder of Pascal VOC annotations.

    All object names become polyps.

    Raises:
        HaustraError: An image has no annotation, a file is malformed, or an image is unreadable.
    """
    folder = Path(annotations)
    if not folder.is_dir():
        raise HaustraError(f"{folder} does not exist; expected a folder of VOC annotations")
    return import_images_with_files(
        images,
        folder,
        list_files=lambda folder: list(folder.glob("[!.]*.xml")),
        noun="annotation",
        read_boxes=_boxes_of_annotation,
        config=config,
        progress=progress,
    )
