"""COCO annotations: one JSON file, boxes as `x,y,width,height` in pixels."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import ImportConfig, ImportResult, import_frames
from haustra.core.boxes import is_four_numbers
from haustra.core.errors import HaustraError, option
from haustra.core.files import read_json, resolve_inside
from haustra.core.paths import StrPath
from haustra.core.progress import Progress


def _boxes_of_image(bboxes: list[Any], _size_wh: tuple[int, int]) -> list[Any]:
    """Turn each `x,y,width,height` into `x0,y0,x1,y1`; others are passed on to be rejected."""
    return [[b[0], b[1], b[0] + b[2], b[1] + b[3]] if is_four_numbers(b) else b for b in bboxes]


def _read_annotations(
    path: Path, *, category: str | None
) -> tuple[list[tuple[Any, str]], dict[Any, list[Any]], list[str]]:
    """Return each image's id and file name, the `bbox` values by image id, and notes."""
    content = read_json(path, what="a COCO annotation file")
    wrong = f"{path} is not a COCO annotation file"
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise HaustraError(f"{wrong}; expected an object with 'images' and 'annotations'")
    try:
        names = {item["id"]: str(item["name"]) for item in content.get("categories", [])}
    except (KeyError, TypeError):
        raise HaustraError(f"{wrong}: a category lacks its id or name") from None
    if category is not None and category not in names.values():
        raise HaustraError(
            f"{option('category', category)} is not in {path}; it has {sorted(names.values())}"
        )
    boxes: dict[Any, list[Any]] = defaultdict(list)
    num_crowds = 0
    try:
        for item in content["annotations"]:
            if category is not None and names.get(item["category_id"]) != category:
                continue
            if item.get("iscrowd"):
                num_crowds += 1
                continue
            boxes[item["image_id"]].append(item["bbox"])
        images = [(item["id"], str(item["file_name"])) for item in content["images"]]
        unknown = boxes.keys() - {image_id for image_id, _ in images}
    except KeyError as error:
        raise HaustraError(f"{wrong}: an entry lacks {error}") from None
    except (TypeError, AttributeError):
        raise HaustraError(
            f"{wrong}: an entry of 'images' or 'annotations' has another shape"
        ) from None
    notes = [f"{num_crowds} crowd region(s) were left out"] if num_crowds else []
    if unknown:
        notes.append(f"{len(unknown)} annotated image id(s) are not in the list of images")
    return images, boxes, notes


def import_coco(
    images: StrPath,
    annotations: StrPath,
    *,
    config: ImportConfig,
    category: str | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Import images with a COCO annotation file.

    All categories become polyps unless `category` names one. Crowd regions are left out and
    counted; an image without an annotation is a negative.

    Raises:
        HaustraError: The file is not a COCO file, or an image is missing or outside `images`.
    """
    images, annotations = Path(images), Path(annotations)
    listed, boxes, notes = _read_annotations(annotations, category=category)
    frames = []
    for image_id, file_name in listed:
        path = resolve_inside(images.resolve(), relative=file_name)
        if path is None:
            raise HaustraError(
                f"{annotations}: image {file_name!r} points outside {images}; expected a path "
                "inside it"
            )
        frames.append((path, file_name, boxes.get(image_id, [])))
    if not frames:
        raise HaustraError(f"{annotations} lists no image")
    return import_frames(
        frames,
        read_boxes=_boxes_of_image,
        images=images,
        notes=notes,
        config=config,
        progress=progress,
    )
