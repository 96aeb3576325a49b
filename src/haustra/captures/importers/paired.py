"""Datasets with an annotation file of the same stem for each image: Pascal VOC and YOLO."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from haustra.captures.importers.dataset import ImportConfig, ImportResult, import_frames
from haustra.core.errors import HaustraError
from haustra.core.images import list_images
from haustra.core.paths import StrPath
from haustra.core.progress import Progress


def import_voc(
    images: StrPath,
    annotations: StrPath,
    *,
    config: ImportConfig,
    progress: Progress | None = None,
) -> ImportResult:
    """Import a folder of images with a folder of Pascal VOC annotations.

    All object names become polyps. Boxes of VOC are in pixels counted from 1, ends included.

    Raises:
        HaustraError: An image has no annotation, a file is malformed, or an image is unreadable.
    """
    return import_pairs(
        images,
        _existing(annotations, holds="VOC annotations"),
        list_files=lambda folder: list(folder.glob("[!.]*.xml")),
        noun="annotation",
        read_boxes=_boxes_of_voc,
        config=config,
        progress=progress,
    )


def import_yolo(
    images: StrPath, labels: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of YOLO label files.

    A line of a label file is `class cx cy w h`, all in 0..1. All classes become polyps. As in YOLO,
    an image without a label file is a negative; a note gives their number.

    Raises:
        HaustraError: A line is malformed, an image is unreadable, or a label has no image.
    """
    return import_pairs(
        images,
        _existing(labels, holds="YOLO label files"),
        list_files=lambda folder: [p for p in folder.glob("[!.]*.txt") if p.stem != "classes"],
        noun="label file",
        read_boxes=_boxes_of_yolo,
        may_lack=True,
        config=config,
        progress=progress,
    )


def _boxes_of_voc(path: Path, _size_wh: tuple[int, int]) -> list[Any]:
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


def _boxes_of_yolo(path: Path, size_wh: tuple[int, int]) -> list[Any]:
    boxes: list[Any] = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HaustraError(f"{path} cannot be read as a YOLO label file: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            _, cx, cy, width, height = (float(part) for part in line.split())
        except ValueError:
            raise HaustraError(
                f"{path}, line {number}: {line!r}: expected 'class cx cy w h'"
            ) from None
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        boxes.append([value * size_wh[index % 2] for index, value in enumerate(box)])
    return boxes


def _existing(folder: StrPath, *, holds: str) -> Path:
    if not Path(folder).is_dir():
        raise HaustraError(f"{folder} does not exist; expected a folder of {holds}")
    return Path(folder)


def list_source_images(folder: Path) -> list[Path]:
    """Return the images of a dataset's folder.

    Raises:
        HaustraError: There is no folder or no image in it, or two images have one stem.
    """
    images = list_images(_existing(folder, holds="images"))
    if not images:
        raise HaustraError(f"{folder} holds no image (PNG, JPEG, BMP, TIFF or WebP)")
    of_stem: dict[str, Path] = {}
    for image in images:
        other = of_stem.setdefault(image.stem, image)
        if other != image:
            raise HaustraError(
                f"{other.name} and {image.name} of {folder} share a stem, so their annotations "
                "would be confused; expected one image per stem"
            )
    return images


def import_pairs(
    images: StrPath,
    folder: StrPath,
    *,
    list_files: Callable[[Path], list[Path]],
    noun: str,
    read_boxes: Callable[[Path, tuple[int, int]], list[Any]],
    may_lack: bool = False,
    config: ImportConfig,
    progress: Progress | None,
) -> ImportResult:
    """Import a folder of images that has one annotation file of the same stem for each image.

    Args:
        images: Folder of the images.
        folder: Folder of the annotation files.
        list_files: Returns the annotation files of that folder.
        noun: What such a file is called in messages, such as `mask`.
        read_boxes: Returns a file's raw boxes `x0,y0,x1,y1` in pixels of an image of this size.
        may_lack: An image without a file is a negative, instead of a mistake.
        config: Name, grouping and provenance of the run.
        progress: Receives the progress.

    Raises:
        HaustraError: A file has no counterpart, or an image or annotation cannot be read.
    """
    images, folder = Path(images), Path(folder)
    image_of_stem = {path.stem: path for path in list_source_images(images)}
    file_of_stem = {path.stem: path for path in list_files(folder)}
    lacking = sorted(image_of_stem.keys() - file_of_stem.keys())
    alone = sorted(file_of_stem.keys() - image_of_stem.keys())
    if lacking and not may_lack:
        raise HaustraError(
            f"{len(lacking)} image(s) of {images} have no {noun} in {folder}, such as "
            f"{lacking[0]!r}; expected one of the same stem for every image"
        )
    if alone:
        raise HaustraError(
            f"{len(alone)} {noun}(s) of {folder} have no image in {images}, such as {alone[0]!r}; "
            f"expected one of the same stem for every {noun}"
        )
    return import_frames(
        [(path, path.name, file_of_stem.get(stem)) for stem, path in image_of_stem.items()],
        read_boxes=lambda file, size_wh: [] if file is None else read_boxes(file, size_wh),
        images=images,
        notes=[f"{len(lacking)} image(s) have no {noun}: taken as negatives"] if lacking else [],
        config=config,
        progress=progress,
    )
