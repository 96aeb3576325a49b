"""YOLO labels: a text file per image, a line `class cx cy w h` per box, all in 0..1."""

from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    import_images_with_files,
)
from haustra.core.errors import HaustraError
from haustra.core.paths import StrPath
from haustra.core.progress import Progress


def _boxes_of_label(path: Path, size_wh: tuple[int, int]) -> list[Any]:
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


def _list_labels(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[!.]*.txt") if path.stem != "classes"]


def import_yolo(
    images: StrPath, labels: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of YOLO label files.

    All classes become polyps. As in YOLO, an image without a label file is a negative; a note
    gives their number.

    Raises:
        HaustraError: A line is malformed, an image is unreadable, or a label has no image.
    """
    folder = Path(labels)
    if not folder.is_dir():
        raise HaustraError(f"{folder} does not exist; expected a folder of YOLO label files")
    return import_images_with_files(
        images,
        folder,
        list_files=_list_labels,
        noun="label file",
        read_boxes=_boxes_of_label,
        may_lack=True,
        config=config,
        progress=progress,
    )
