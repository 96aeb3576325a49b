"""COCO annotations: one JSON file, boxes as `x,y,width,height` in pixels."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import (
    Annotation,
    ImportConfig,
    ImportResult,
    SourceBox,
    as_text,
    name_some,
    read_size,
)
from haustra.captures.importers.listed import import_listed
from haustra.core.boxes import is_four_numbers
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

LESION_KEYS = ("lesion_id", "unique_id", "track_id")
"""Names by which `haustra convert`, REAL-Colon and CVAT identify a lesion over the frames."""


@dataclass(frozen=True, kw_only=True)
class CocoImportConfig(ImportConfig):
    """Settings of `haustra import coco`."""

    keep_crowds: bool = False
    """Take the boxes of crowd regions (`iscrowd`), as CVAT marks its masks."""


def _id(value: Any) -> str:
    """Return an id as text, so that 1 and "1" are one id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return str(value)


def _source_box(item: dict[str, Any], *, names: dict[str, str]) -> SourceBox:
    box = item["bbox"]
    if is_four_numbers(box):  # others are passed on to be rejected
        with suppress(OverflowError):  # a whole number that is too large is rejected as well
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    category = _id(item.get("category_id", "(none)"))
    attributes = item.get("attributes")
    own = {**attributes, **item} if isinstance(attributes, dict) else item
    lesion_id = next((own[key] for key in LESION_KEYS if key in own), None)
    return SourceBox(
        box_px=box,
        class_name=names.get(category, f"category {category}"),
        lesion_id=None if lesion_id is None else as_text(str(lesion_id)),
    )


def _read_content(
    path: Path, *, keep_crowds: bool
) -> tuple[list[tuple[str, Annotation]], list[str], list[str]]:
    """Return each image's file name and annotation, mistakes, and notes."""
    content = read_json(path, what="a COCO annotation file")
    wrong = f"{path} is not a COCO annotation file"
    lists = [isinstance(content, dict) and content.get(key) for key in ("images", "annotations")]
    if not all(isinstance(value, list) for value in lists):
        raise HaustraError(f"{wrong}; expected an object with lists 'images' and 'annotations'")
    categories = content.get("categories", [])
    try:
        names = {_id(item["id"]): str(item["name"]) for item in categories}
    except (KeyError, TypeError):
        raise HaustraError(f"{wrong}: a category lacks its id or name") from None
    images: dict[str, tuple[str, Annotation]] = {}
    problems: list[str] = []
    if len(names) < len(categories):
        problems.append(f"{path}: two categories have the same id; expected one of each")
    num_unknown, item = 0, None
    try:
        for item in content["images"]:
            image_id, name = _id(item["id"]), item["file_name"]
            if not isinstance(name, str):
                raise TypeError
            size_wh = read_size(item.get("width"), item.get("height"), source=f"{path}: {name!r}")
            if image_id in images:
                problems.append(f"{path}: two images have the id {image_id}; expected one")
            images[image_id] = (name, Annotation(size_wh=size_wh))
        for item in content["annotations"]:
            _, annotation = images.get(_id(item["image_id"]), ("", Annotation()))
            num_unknown += _id(item["image_id"]) not in images
            if item.get("iscrowd") and not keep_crowds:
                annotation.rejected.append("crowd region, whose box --keep-crowds takes")
                continue
            annotation.boxes.append(_source_box(item, names=names))
    except KeyError as error:
        raise HaustraError(f"{wrong}: the entry {item!r:.120} lacks {error}") from None
    except (TypeError, AttributeError):
        raise HaustraError(
            f"{wrong}: {item!r:.120} is not an entry of 'images' or 'annotations', whose ids are "
            "whole numbers or text"
        ) from None
    if num_unknown and num_unknown == len(content["annotations"]):
        problems.append(
            f"{path}: none of the {num_unknown} annotation(s) has the id of an image; expected "
            f"ids such as {name_some(list(images)[:1])}"
        )
    return (
        list(images.values()),
        problems,
        [f"{num_unknown} annotation(s) have an image id that is not listed"] if num_unknown else [],
    )


def import_coco(
    images: StrPath,
    annotations: StrPath,
    *,
    config: ImportConfig,
    progress: Progress | None = None,
) -> ImportResult:
    """Import images with a COCO annotation file.

    Crowd regions are rejected unless a `CocoImportConfig` keeps them. An image that the file lists
    without an annotation is a negative if others have one.

    Raises:
        HaustraError: The file is not a COCO file, its ids or sizes do not fit, or an image is
            missing or outside `images`.
    """
    images, annotations = to_path(images), to_path(annotations)
    keep_crowds = isinstance(config, CocoImportConfig) and config.keep_crowds
    listed, problems, notes = _read_content(annotations, keep_crowds=keep_crowds)
    return import_listed(
        images,
        annotations,
        listed=listed,
        problems=problems,
        notes=notes,
        config=config,
        progress=progress,
    )
