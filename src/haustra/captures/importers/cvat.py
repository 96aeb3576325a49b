"""CVAT's XML: one file for a task of images, or for a video with a track for each lesion."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from haustra.captures.importers.dataset import ImportConfig, ImportResult, read_size
from haustra.captures.importers.listed import UNCONFIRMED, import_listed, unconfirmed_error
from haustra.captures.importers.paired import PREDICTED
from haustra.captures.importers.records import Annotation, SourceBox
from haustra.captures.importers.text import read_xml
from haustra.core.errors import HaustraError
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

CORNERS = ("xtl", "ytl", "xbr", "ybr")
INTERPOLATED = "box between two keyframes, placed on the straight line as CVAT does"


@dataclass(frozen=True, kw_only=True)
class CvatTask:
    """The annotations of a CVAT task."""

    images: list[tuple[str, Annotation]]
    """File name and annotation of each image; empty for a video."""
    frames: dict[int, Annotation]
    """Annotation of each frame of a video that shows something, by the frame's number."""
    first_frame: int = 0
    last_frame: int | None = None
    """Last frame that was labeled; None where the file does not say."""
    frame_step: int = 1
    """The video was labeled every so many frames."""
    size_wh: tuple[int, int] = (0, 0)
    """Width and height of the video in pixels; 0 where the file does not say."""

    def is_labeled(self, number: int) -> bool:
        """Return True if CVAT showed this frame of the video to the person who labeled."""
        last = number if self.last_frame is None else self.last_frame
        is_inside = self.first_frame <= number <= last
        return is_inside and (number - self.first_frame) % self.frame_step == 0


@dataclass(frozen=True, kw_only=True)
class _Keyframe:
    """A box of a track."""

    frame: int
    is_outside: bool
    """True if the lesion is out of view from here on."""
    box_px: tuple[float, ...]


def import_cvat(
    images: StrPath, annotations: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with annotations exported as "CVAT for images 1.1"."""
    images, annotations = to_path(images), to_path(annotations)
    task = read_cvat(annotations)
    if not task.images:
        raise HaustraError(
            f"{annotations} is for a video; expected a task of images; use `haustra import video "
            f"VIDEO --labels {annotations}`"
        )
    return import_listed(images, annotations, listed=task.images, config=config, progress=progress)


def read_cvat(path: Path) -> CvatTask:
    """Read a file that CVAT calls "CVAT for images 1.1" or "CVAT for video 1.1"."""
    root = read_xml(path, what="annotations of CVAT")
    if root.tag != "annotations":
        raise HaustraError(f"{path} has the root {root.tag!r}; expected 'annotations' of CVAT")
    if unknown := sorted({child.tag for child in root} - {"version", "meta", "image", "track"}):
        raise HaustraError(f"{path} has elements {unknown}; expected 'image' or 'track' of CVAT")
    task = next(
        (e for name in ("task", "job") if (e := root.find(f"meta/{name}")) is not None), None
    )
    images, tracks = root.findall("image"), root.findall("track")
    if images and tracks:
        raise HaustraError(f"{path} has images and tracks; expected one task of one kind")
    if not images and task is None:
        raise HaustraError(
            f"{path} has {len(tracks)} track(s), no image and no task in its <meta>, so the frames "
            "that were labeled are not known; expected one task of CVAT, exported by itself"
        )
    sources = [box.get("source") for box in root.iterfind("image/box")]
    if root.findtext("meta/haustra") == UNCONFIRMED and set(sources) == {"auto"}:
        raise unconfirmed_error(path, num_boxes=len(sources))
    size = root.find("meta//original_size")
    first, last, step = _labeled_frames(task, path=path)
    return CvatTask(
        images=[_read_image(image, path=path) for image in images],
        frames=_read_tracks(tracks, step=step, path=path),
        first_frame=first,
        last_frame=last,
        frame_step=step,
        size_wh=(0, 0)
        if size is None
        else read_size(size.findtext("width"), size.findtext("height"), source=str(path)),
    )


def _labeled_frames(task: ElementTree.Element | None, *, path: Path) -> tuple[int, int | None, int]:
    """Return the first and the last frame of the video that was labeled, and the step."""
    if task is None:
        return 0, None, 1
    size, start, stop = (task.findtext(n) for n in ("size", "start_frame", "stop_frame"))
    _, _, step = (task.findtext("frame_filter") or "").partition("step=")
    try:
        first, every = int(start or 0), int(step or 1)
        last = first + (int(size) - 1) * every if size else int(stop) if stop else None
        if first < 0 or every < 1:
            raise ValueError
    except ValueError:
        raise HaustraError(
            f"{path}: size {size!r}, start_frame {start!r}, frame_filter {step!r}: expected whole "
            "numbers"
        ) from None
    return first, last, every


def _read_image(image: ElementTree.Element, *, path: Path) -> tuple[str, Annotation]:
    name = image.get("name")
    if not name:
        raise HaustraError(f"{path}: an image has no name")
    place = f"{path}: {name!r}"
    annotation = Annotation(
        size_wh=read_size(image.get("width"), image.get("height"), source=place)
    )
    for shape in image:
        box_px = _box_of(shape, place=place)
        if isinstance(box_px, str):
            annotation.rejected.append(box_px)
            continue
        if shape.get("source") == "auto":
            annotation.hints.append(PREDICTED.format("source auto"))
        annotation.boxes.append(
            SourceBox(
                box_px=box_px, class_name=shape.get("label", ""), lesion_id=_lesion_id_of(shape)
            )
        )
    return name, annotation


def _lesion_id_of(shape: ElementTree.Element) -> str | None:
    """Return the attribute that `haustra convert` writes."""
    attributes = shape.iter("attribute")
    return next((item.text for item in attributes if item.get("name") == "lesion_id"), None)


def _box_of(shape: ElementTree.Element, *, place: str) -> tuple[float, ...] | str:
    """Return the corners of a shape in pixels, or the reason why it has none."""
    try:
        if shape.tag == "box" and float(shape.get("rotation", 0)) == 0:
            return tuple(float(shape.attrib[name]) for name in CORNERS)
        if shape.tag == "polygon":
            points = [tuple(map(float, p.split(","))) for p in shape.attrib["points"].split(";")]
            xs, ys = zip(*points, strict=True)
            return (min(xs), min(ys), max(xs), max(ys))
        if shape.tag == "mask":
            left, top, width, height = (
                float(shape.attrib[name]) for name in ("left", "top", "width", "height")
            )
            return (left, top, left + width, top + height)
    except (KeyError, ValueError) as error:
        raise HaustraError(f"{place}: a {shape.tag} lacks a coordinate ({error})") from None
    kind = "rotated box" if shape.tag == "box" else shape.tag
    return f"{kind} of CVAT; expected a box, polygon or mask"


def _read_tracks(
    tracks: list[ElementTree.Element], *, step: int, path: Path
) -> dict[int, Annotation]:
    tasks = sorted({track.get("task_id", "") for track in tracks})
    if len(tasks) > 1:
        raise HaustraError(
            f"{path} holds tracks of {len(tasks)} tasks; expected one; export each task by itself"
        )
    frames: dict[int, Annotation] = {}
    for track in tracks:
        place = f"{path}: track {track.get('id')}"
        keyframes: list[_Keyframe] = []
        for shape in track:
            box_px = _box_of(shape, place=place)
            try:
                frame = int(shape.get("frame", ""))
            except ValueError:
                raise HaustraError(f"{place}: a {shape.tag} has no frame") from None
            is_outside = shape.get("outside") == "1"
            if isinstance(box_px, str):
                if not is_outside:
                    frames.setdefault(frame, Annotation()).rejected.append(box_px)
                continue
            keyframes.append(_Keyframe(frame=frame, is_outside=is_outside, box_px=box_px))
        lesion_id = _lesion_id_of(track) or track.get("id")
        keyframes.sort(key=lambda keyframe: keyframe.frame)
        for frame, box_px, is_interpolated in _fill(keyframes, step=step):
            annotation = frames.setdefault(frame, Annotation())
            annotation.boxes.append(
                SourceBox(box_px=box_px, class_name=track.get("label", ""), lesion_id=lesion_id)
            )
            annotation.hints += [INTERPOLATED] * is_interpolated
    return frames


def _fill(
    keyframes: list[_Keyframe], *, step: int
) -> Iterator[tuple[int, tuple[float, ...], bool]]:
    """Yield frame, corners and True if interpolated, for each frame on which a track is in view.

    CVAT writes every frame. A file with keyframes alone means the frames between them, too.
    """
    for now, after in pairwise([*keyframes, None]):
        if now is None or now.is_outside:
            continue
        yield now.frame, now.box_px, False
        if after is None:
            continue
        goal = now if after.is_outside else after
        for frame in range(now.frame + step, after.frame, step):
            share = (frame - now.frame) / (after.frame - now.frame)
            corners = zip(now.box_px, goal.box_px, strict=True)
            yield frame, tuple(a + share * (b - a) for a, b in corners), True
