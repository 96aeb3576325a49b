"""YOLO labels: a text file per image, a line `class cx cy w h` per box, all in 0..1."""

from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    SourceFrame,
    import_frames,
    list_source_images,
)
from haustra.core.errors import HaustraError
from haustra.core.progress import Progress


def _boxes_of_label(label_path: Path, *, size_wh: tuple[int, int]) -> list[Any]:
    if not label_path.exists():
        return []
    boxes: list[Any] = []
    try:
        text = label_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HaustraError(f"{label_path} cannot be read as a YOLO label file: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            _, cx, cy, width, height = (float(part) for part in line.split())
        except ValueError:
            raise HaustraError(
                f"{label_path}, line {number}: {line!r}: expected 'class cx cy w h'"
            ) from None
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        boxes.append([value * size_wh[index % 2] for index, value in enumerate(box)])
    return boxes


def import_yolo(
    images: Path, labels: Path, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of YOLO label files.

    All classes become polyps. As in YOLO, an image without a label file is a negative; how many
    there were is noted.

    Raises:
        HaustraError: a malformed line, an unreadable image, or a label without an image.
    """
    if not labels.is_dir():
        raise HaustraError(f"{labels} does not exist; expected a folder of YOLO label files")
    image_paths = list_source_images(images)
    stems = {path.stem for path in image_paths}
    label_stems = {path.stem for path in labels.glob("[!.]*.txt")} - {"classes"}
    orphans = sorted(label_stems - stems)
    if orphans:
        raise HaustraError(
            f"{len(orphans)} label file(s) of {labels} have no image in {images}, such as "
            f"{orphans[0]!r}; expected an image of the same stem for every label file"
        )
    num_without = len(stems - label_stems)
    notes = [f"{num_without} image(s) have no label file: taken as negatives"]

    def source_frame(image_path: Path) -> SourceFrame:
        label_path = labels / f"{image_path.stem}.txt"
        return SourceFrame(
            image_path=image_path,
            name=image_path.name,
            read_boxes=lambda size_wh: _boxes_of_label(label_path, size_wh=size_wh),
        )

    return import_frames(
        map(source_frame, image_paths),
        total=len(image_paths),
        config=config,
        default_name=images.resolve().parent.name,
        notes=notes if num_without else [],
        progress=progress,
    )
