"""COCO annotations: one JSON file, boxes as `x,y,width,height` in pixels."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    SourceFrame,
    import_frames,
)
from haustra.core.boxes import is_four_numbers
from haustra.core.errors import HaustraError
from haustra.core.files import read_json, resolve_inside
from haustra.core.progress import Progress


def _box_from_xywh(bbox: Any) -> Any:
    """Turn `x,y,width,height` into `x0,y0,x1,y1`; anything else is passed on to be rejected."""
    if not is_four_numbers(bbox):
        return bbox
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def import_coco(
    images: Path,
    annotations: Path,
    *,
    config: ImportConfig,
    category: str | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Import images with a COCO annotation file.

    All categories become polyps unless `category` names one. Crowd regions are left out and
    counted; an image without an annotation is a negative.

    Raises:
        HaustraError: the file is no COCO file, an image is missing or lies outside `images`.
    """
    content = read_json(annotations, what="a COCO annotation file")
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise HaustraError(
            f"{annotations} is not a COCO annotation file; expected an object with "
            "'images' and 'annotations'"
        )
    try:
        names = {item["id"]: str(item["name"]) for item in content.get("categories", [])}
    except (KeyError, TypeError):
        raise HaustraError(
            f"{annotations} is not a COCO annotation file: a category lacks its id or name"
        ) from None
    if category is not None and category not in names.values():
        raise HaustraError(
            f"--category {category!r} is not in {annotations}; it has {sorted(names.values())}"
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
            boxes[item["image_id"]].append(_box_from_xywh(item["bbox"]))
        sources = [(item["id"], str(item["file_name"])) for item in content["images"]]
        unknown = boxes.keys() - {image_id for image_id, _ in sources}
    except KeyError as error:
        raise HaustraError(
            f"{annotations} is not a COCO annotation file: an entry lacks {error}"
        ) from None
    except (TypeError, AttributeError):
        raise HaustraError(
            f"{annotations} is not a COCO annotation file: an entry of 'images' or "
            "'annotations' has another shape"
        ) from None
    notes = [f"{num_crowds} crowd region(s) were left out"] if num_crowds else []
    if unknown:
        notes.append(f"{len(unknown)} annotated image id(s) are not in the list of images")

    def source_frame(image_id: Any, file_name: str) -> SourceFrame:
        path = resolve_inside(images, relative=file_name)
        if path is None:
            raise HaustraError(
                f"{annotations}: image {file_name!r} points outside {images}; expected a path "
                "inside it"
            )
        return SourceFrame(image_path=path, name=file_name, read_boxes=lambda _: boxes[image_id])

    frames = [source_frame(image_id, name) for image_id, name in sources]
    if not frames:
        raise HaustraError(f"{annotations} lists no image")
    return import_frames(
        frames,
        total=len(frames),
        config=config,
        default_name=images.resolve().parent.name,
        notes=notes,
        progress=progress,
    )
