"""Pascal VOC annotations: an XML file per image, boxes in pixels counted from 1, ends included."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    SourceFrame,
    import_frames,
    list_source_images,
)
from haustra.core.errors import HaustraError
from haustra.core.progress import Progress


def _boxes_of_annotation(path: Path) -> list[Any]:
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
    images: Path, annotations: Path, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of Pascal VOC annotations.

    All object names become polyps.

    Raises:
        HaustraError: an image without an annotation, a malformed file, or an unreadable image.
    """
    if not annotations.is_dir():
        raise HaustraError(f"{annotations} does not exist; expected a folder of VOC annotations")
    image_paths = list_source_images(images)
    stems = {path.stem for path in image_paths}
    annotated = {path.stem for path in annotations.glob("[!.]*.xml")}
    for missing, what, where in (
        (sorted(stems - annotated), "an annotation", annotations),
        (sorted(annotated - stems), "an image", images),
    ):
        if missing:
            raise HaustraError(
                f"{len(missing)} file(s) lack {what} in {where}, such as {missing[0]!r}; "
                "expected one of the same stem"
            )

    def source_frame(image_path: Path) -> SourceFrame:
        annotation = annotations / f"{image_path.stem}.xml"
        return SourceFrame(
            image_path=image_path,
            name=image_path.name,
            read_boxes=lambda _: _boxes_of_annotation(annotation),
        )

    return import_frames(
        map(source_frame, image_paths),
        total=len(image_paths),
        config=config,
        default_name=images.resolve().parent.name,
        progress=progress,
    )
