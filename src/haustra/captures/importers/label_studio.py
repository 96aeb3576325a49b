"""Label Studio: one JSON file with a task for each image."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from haustra.captures.importers.dataset import ImportConfig, ImportResult, read_size
from haustra.captures.importers.listed import import_listed
from haustra.captures.importers.records import Annotation, SourceBox
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.images import IMAGE_SUFFIXES
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

LESION_PREFIX = "lesion_id: "
"""Begins the remark (`meta.text`) by which `haustra convert` names the lesion of a region."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Label Studio puts eight digits before the name of an uploaded file."""


def import_label_studio(
    images: StrPath, tasks: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a Label Studio project that was exported as "JSON".

    Predictions are not labels. A task without an annotation is left out and counted.

    Raises:
        HaustraError: The file is not such an export, a task has several annotations, or what
            `import_listed` raises.
    """
    images, tasks = to_path(images), to_path(tasks)
    content = read_json(tasks, what="tasks of Label Studio")
    if not isinstance(content, list) or not content:
        raise HaustraError(f"{tasks} holds no tasks; expected Label Studio's export as JSON")
    read = [_read_task(task, place=f"{tasks}: task {n}") for n, task in enumerate(content, start=1)]
    listed = [(_inside(images, path=path), found) for path, found in read if found is not None]
    num_open = len(read) - len(listed)
    if not listed:
        raise HaustraError(f"{tasks}: none of the {num_open} tasks has an annotation")
    return import_listed(
        images,
        tasks,
        listed=listed,
        notes=[f"{num_open} task(s) without an annotation are left out"] if num_open else [],
        config=config,
        progress=progress,
    )


def _inside(images: Path, *, path: str) -> str:
    """Return the part of a path of Label Studio's storage that is a file in `images`."""
    parts = path.split("/")
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((name for name in names if (images / name).is_file()), path)


def _read_task(task: Any, *, place: str) -> tuple[str, Annotation | None]:
    """Return the image's path, and its annotation; None if nobody has labeled it."""
    try:
        paths = [_path_in(url) for url in task["data"].values() if isinstance(url, str)]
        [name] = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
        done = [item for item in task.get("annotations", []) if not item.get("was_cancelled")]
        regions = [region for item in done for region in item["result"]]
        if len(done) > 1:
            raise HaustraError(f"{place} ({name!r}) has {len(done)} annotations; expected one")
        annotation = Annotation()
        for region in regions:
            _add_region(annotation, region, place=place)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HaustraError(
            f"{place} is incomplete ({error!r}); expected Label Studio's export as JSON, with one "
            "image in the data of each task"
        ) from None
    return name, annotation if done else None


def _path_in(url: str) -> str:
    """Return the path of a file in Label Studio's URL, without what Label Studio put before it."""
    parts = urlsplit(url)
    inside = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    if "/upload/" in inside:
        return _UPLOAD_PREFIX.sub("", inside.rsplit("/", 1)[-1])
    return inside.lstrip("/")


def _add_region(annotation: Annotation, region: dict[str, Any], *, place: str) -> None:
    """Add a region to an annotation, or the reason why it is rejected."""
    value, kind = region.get("value", {}), region["type"]
    if kind not in ("rectanglelabels", "rectangle", "polygonlabels"):
        annotation.rejected.append(f"{kind} of Label Studio; expected a rectangle or polygon")
        return
    width, height = region["original_width"], region["original_height"]
    size_wh = read_size(width, height, source=place)
    if 0 in size_wh:
        raise HaustraError(f"{place} states no size of its image, but boxes in percent of it")
    if annotation.size_wh not in ((0, 0), size_wh):
        raise HaustraError(f"{place} states two sizes, {annotation.size_wh} and {size_wh}")
    annotation.size_wh = size_wh
    if region.get("image_rotation") or value.get("rotation"):
        annotation.rejected.append("rotated box of Label Studio; expected one without rotation")
        return
    names = value.get(kind) or ["(none)"]
    if kind == "polygonlabels":
        xs, ys = zip(*value["points"], strict=True)
        corners = (min(xs), min(ys), max(xs), max(ys))
    else:
        x, y = value["x"], value["y"]
        corners = (x, y, x + value["width"], y + value["height"])
    box_px = [corner * size_wh[n % 2] / 100 for n, corner in enumerate(corners)]
    remarks = (region.get("meta") or {}).get("text", [])
    lesions = [text for text in remarks if text.startswith(LESION_PREFIX)]
    annotation.boxes.append(
        SourceBox(
            box_px=box_px,
            class_name=", ".join(names),
            lesion_id=lesions[0].removeprefix(LESION_PREFIX) if lesions else None,
        )
    )
