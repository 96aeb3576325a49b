"""COCO annotations: one JSON file, boxes as `x,y,width,height` in pixels."""

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haustra.captures.importers.dataset import (
    ImportConfig,
    ImportResult,
    as_text,
    import_runs,
    read_size,
)
from haustra.captures.importers.listed import UNCONFIRMED, find_listed, unconfirmed_error
from haustra.captures.importers.paired import PREDICTED
from haustra.captures.importers.records import Annotation, SourceBox, SourceFrame, SourceRun
from haustra.captures.reader import in_frame_order, slugify
from haustra.core.boxes import is_four_numbers
from haustra.core.errors import HaustraError, name_some
from haustra.core.files import read_json
from haustra.core.frame_times import output_rate
from haustra.core.images import natural_key
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

LESION_KEYS = ("lesion_id", "unique_id", "track_id")
"""Names by which `haustra convert`, REAL-Colon and CVAT identify a lesion over the frames."""


@dataclass(frozen=True, kw_only=True)
class CocoImportConfig(ImportConfig):
    """Settings of `haustra import coco`."""

    keep_crowds: bool = False
    """Take the boxes of crowd regions (`iscrowd`), as CVAT marks its masks."""


@dataclass(kw_only=True)
class _ImageAnnotation(Annotation):
    """The annotations of one image, and its place in a video."""

    video_id: str | None = None
    frame_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Video:
    """An entry of `videos`."""

    name: str
    fps: Any  # frame rate as the file states it, or None

    @property
    def frame_rate_hz(self) -> float | None:
        """The frame rate, if it is a number above 0."""
        with suppress(TypeError, ValueError, OverflowError):
            if 0 < (rate := float(self.fps)) < math.inf and not isinstance(self.fps, bool):
                return rate
        return None


@dataclass(frozen=True, kw_only=True)
class _Content:
    """The content of a file, with its mistakes and what is odd about it."""

    path: Path
    listed: list[tuple[str, _ImageAnnotation]]
    """File name and annotation of each image."""
    videos: dict[str, _Video]  # by id; empty if no image belongs to one
    problems: list[str]
    notes: list[str]


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
    lesion_id = next((own[key] for key in LESION_KEYS if own.get(key) is not None), None)
    return SourceBox(
        box_px=box,
        class_name=names.get(category, f"category {category}"),
        lesion_id=None if lesion_id is None else as_text(str(lesion_id)),
    )


def _read_videos(stated: Any, *, wrong: str) -> dict[str, _Video]:
    """Return the videos by id; `wrong` begins the message on an entry of another shape."""
    videos, item = {}, stated
    try:
        for item in stated or ():
            video_id = _id(item["id"])
            name = item.get("name") or item.get("file_name") or f"video {video_id}"
            fps = next((item[k] for k in ("fps", "frame_rate") if item.get(k) is not None), None)
            videos[video_id] = _Video(name=as_text(str(name)), fps=fps)
    except (KeyError, TypeError, AttributeError):
        raise HaustraError(
            f"{wrong}: {item!r:.120} is not an entry of 'videos' with an id, which is a whole "
            "number or text"
        ) from None
    return videos


def _read_content(path: Path, *, config: ImportConfig) -> _Content:
    keep_crowds = isinstance(config, CocoImportConfig) and config.keep_crowds
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
    images: dict[str, tuple[str, _ImageAnnotation]] = {}
    problems: list[str] = []
    if len(names) < len(categories):
        problems.append(f"{path}: two categories have the same id; expected one of each")
    videos = _read_videos(content.get("videos"), wrong=wrong)
    num_unknown, item = 0, None
    try:
        for item in content["images"]:
            image_id, name = _id(item["id"]), item["file_name"]
            if not isinstance(name, str):
                raise TypeError
            size_wh = read_size(item.get("width"), item.get("height"), source=f"{path}: {name!r}")
            if image_id in images:
                problems.append(f"{path}: two images have the id {image_id}; expected one")
            video_id, frame_id = (
                None if item.get(key) is None else _id(item[key])
                for key in ("video_id", "frame_id")
            )
            images[image_id] = (
                name,
                _ImageAnnotation(
                    size_wh=size_wh,
                    video_id=video_id,
                    frame_id=None if frame_id is None else int(frame_id),
                ),
            )
        for item in content["annotations"]:
            _, annotation = images.get(_id(item["image_id"]), ("", _ImageAnnotation()))
            num_unknown += _id(item["image_id"]) not in images
            if item.get("iscrowd") and not keep_crowds:
                annotation.rejected.append("crowd region, whose box --keep-crowds takes")
                continue
            annotation.boxes.append(_source_box(item, names=names))
            if "score" in item:
                annotation.hints.append(PREDICTED.format("it has a score"))
    except KeyError as error:
        raise HaustraError(f"{wrong}: the entry {item!r:.120} lacks {error}") from None
    except (TypeError, ValueError, AttributeError):
        raise HaustraError(
            f"{wrong}: {item!r:.120} is not an entry of 'images' or 'annotations', whose ids are "
            "whole numbers or text"
        ) from None
    scored, info = ["score" in item for item in content["annotations"]], content.get("info")
    if isinstance(info, dict) and info.get("haustra") == UNCONFIRMED and scored and all(scored):
        raise unconfirmed_error(path, num_boxes=len(scored))
    if num_unknown and num_unknown == len(content["annotations"]):
        problems.append(
            f"{path}: none of the {num_unknown} annotation(s) has the id of an image; expected "
            f"ids such as {name_some(list(images)[:1])}"
        )
    notes = []
    if num_unknown:
        notes.append(f"{num_unknown} annotation(s) have an image id that is not listed")
    listed = list(images.values())
    if videos and not any(annotation.video_id in videos for _, annotation in listed):
        notes.append(f"no image has the id of one of {len(videos)} video(s): they are not used")
        videos = {}
    return _Content(path=path, listed=listed, videos=videos, problems=problems, notes=notes)


def import_coco(
    images: StrPath, annotations: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> list[ImportResult]:
    """Import images with a COCO annotation file: a run for each of its `videos`, or one run.

    Crowd regions are rejected unless a `CocoImportConfig` keeps them. An image that the file lists
    without an annotation is a negative if others have one. Images outside of any video are a run of
    their own.

    Raises:
        HaustraError: The file is not a COCO file, its ids or sizes do not fit, or an image is
            missing or outside `images`.
    """
    images, annotations = to_path(images), to_path(annotations)
    content = _read_content(annotations, config=config)
    found = find_listed(
        images, annotations, listed=content.listed, allow_unlabelled=config.allow_unlabelled
    )
    frames, notes = list(found.frames), [*content.notes, *found.notes]
    problems = [*content.problems, *found.problems]
    if config.frame_rate_hz is not None:
        frames.sort(key=lambda frame: natural_key(frame.name))
    frames_of: dict[str | None, list[SourceFrame]] = {
        None: [],
        **{key: [] for key in content.videos},
    }
    for frame in frames:
        video_id = frame.annotation.video_id if content.videos else None
        if video_id not in frames_of:
            problems.append(
                f"{annotations}: image {frame.name!r} has the video_id {video_id}, which 'videos' "
                "does not list; expected one of its ids"
            )
            continue
        frames_of[video_id].append(frame)
    outside = frames_of.pop(None)
    runs = [
        _video_run(content.videos[key], own, path=annotations, config=config, problems=problems)
        for key, own in frames_of.items()
        if own and key is not None
    ]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            problems.append(
                f"{annotations}: {count} videos would be the run {name!r}; expected different names"
            )
    if without := [content.videos[key].name for key, own in frames_of.items() if key and not own]:
        notes.append(f"{len(without)} video(s) have no image: {name_some(without)}")
    if runs and outside:
        names = name_some([frame.name for frame in outside])
        notes.append(
            f"{len(outside)} image(s) belong to no video, and are a run of their own: {names}"
        )
    if outside or not runs:
        runs.insert(0, SourceRun(frames=outside))
    runs[0] = replace(runs[0], notes=[*notes, *runs[0].notes], problems=problems)
    name = images.resolve().parent.name
    return import_runs(runs, default_name=name, config=config, progress=progress)


def _video_run(
    video: _Video,
    frames: list[SourceFrame],
    *,
    path: Path,
    config: ImportConfig,
    problems: list[str],
) -> SourceRun:
    """Return the run of a video: its frames by `frame_id`, at their times if these are known."""
    frames = in_frame_order(
        frames, name=lambda frame: frame.name, frame_id=lambda frame: frame.annotation.frame_id
    )
    numbers = [frame.annotation.frame_id for frame in frames]
    if twice := [n for n, count in Counter(numbers).items() if n is not None and count > 1]:
        problems.append(
            f"{path}: video {video.name!r} has two images of the frame_id {twice[0]}; expected one"
        )
    rate, notes = video.frame_rate_hz, []
    if config.frame_rate_hz is None and rate is None:
        notes.append(
            f"not known: frame rate of {video.name!r} (fps: {video.fps!r:.40}), which "
            "--frame-rate-hz gives"
        )
    elif config.frame_rate_hz is None and rate is not None and None not in numbers and not twice:
        times = [(number - numbers[0]) / rate for number in numbers]
        frames = [replace(f, seconds=s) for f, s in zip(frames, times, strict=True)]
        rate = output_rate(times, stated_hz=rate)
    return SourceRun(
        frames=frames, name=slugify(video.name), group=video.name, frame_rate_hz=rate, notes=notes
    )
