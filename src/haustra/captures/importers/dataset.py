"""The part that all importers share: from images with boxes to one run folder.

A reader yields an `Annotation` for each image. Here it is compared with the decoded image, counted,
and written. Images are hard-linked or copied byte for byte, never encoded again. A box that cannot
be used is rejected and named. All other mistakes are collected, and refuse the import together.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2

from haustra.captures.importers.cropping import Picture, crop_picture, field_of_view_of_images
from haustra.captures.importers.records import Annotation, Read, SourceFrame, SourceRun, read_as_is
from haustra.captures.importers.similar import SimilarImages
from haustra.captures.reader import slugify
from haustra.captures.schema import RunManifest, SplitName
from haustra.captures.writer import PolypTruth, RunWriter, writing_run
from haustra.core.boxes import check_box_px
from haustra.core.checked import CheckedSettings, OutputFolder, Positive
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, option, refuse
from haustra.core.images import check_image, decode_image_rgb, natural_key, read_image_bytes
from haustra.core.look_alikes import GroupBy
from haustra.core.outputs import check_outputs
from haustra.core.plurals import counted
from haustra.core.progress import Progress, SilentProgress, track


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(CheckedSettings):
    """Settings that every format of `haustra import` takes."""

    output_root: OutputFolder = Path("captures")
    """Capture root that receives the run folder."""
    run_id: str | None = None
    """Name of the run; made from --dataset or the images' folder by default."""
    dataset: str | None = None
    """Name of the dataset, stored in the run manifest."""
    licence: str | None = None
    """License of the data, stored in the run manifest."""
    citation: str | None = None
    """Citation of the data, stored in the run manifest."""
    group_regex: str | None = None
    """Pattern searched in each image's path without its suffix; its first group (or the whole
    match) is the patient or sequence that splits may not cut. By default every image is a group
    of its own."""
    group: str | None = None
    """Patient or sequence of all images, instead of --group-regex."""
    group_by: GroupBy | None = None
    """similar makes one group of images that look alike, such as the frames of a sequence; groups
    that are stated are merged, never cut."""
    frame_rate_hz: Positive | None = None
    """Frames per second, if the images, by natural order of their names, are one video."""
    crop: Literal["auto"] | None = None
    """auto crops each image, or all of a video alike, to the endoscope's picture: without black
    border, text beside it and small inserts."""
    split: SplitName | None = None
    """Split that the dataset puts these images into, for `haustra etl --split dataset`."""
    allow_unlabelled: bool = False
    """Take an image as a negative even if its annotation is missing or none of its boxes can be
    used."""
    overwrite: bool = False
    """Replace a run folder of the same name."""

    class_option = "classes"  # setting that chooses the classes, for messages

    @property
    def chosen_classes(self) -> frozenset[str] | None:
        """Classes whose boxes are polyps; None for the only one."""
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_regex is not None:
            try:
                re.compile(self.group_regex)
            except re.error as error:
                raise HaustraError(
                    f"{option('group_regex', self.group_regex)} is not a regular expression: "
                    f"{error}"
                ) from None
        run_id = self.run_id
        if run_id is not None and slugify(run_id) != run_id.lower().replace("_", "-"):
            raise HaustraError(
                f"{option('run_id', run_id)}: expected letters, digits, '-' and '_' only"
            )


@dataclass(frozen=True, kw_only=True)
class ImportConfig(DatasetConfig):
    """Settings of `haustra import` for formats that name the class of each box."""

    classes: str | None = None
    """Classes whose boxes are polyps, separated by commas. Needed if boxes have several classes;
    boxes of other classes are left out."""

    @property
    def chosen_classes(self) -> frozenset[str] | None:
        """Classes whose boxes are polyps; None for the only one."""
        return None if self.classes is None else split_names(self.classes)


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """The run that an import made."""

    folder: Path
    num_images: int
    num_boxes: int
    num_empty: int
    num_clipped: int
    num_rejected: int
    num_similar: int  # images that look like another one, if they were compared
    classes: dict[str, int]
    """Number of boxes of each class in the dataset, chosen or not."""
    notes: list[str]
    """Lines for the user: images without annotation, rejected boxes."""

    def as_json(self) -> dict[str, Any]:
        """Return the counts and notes as they are printed and stored in the run manifest."""
        return {
            "images": self.num_images,
            "boxes": self.num_boxes,
            "empty": self.num_empty,
            "clipped_boxes": self.num_clipped,
            "rejected_boxes": self.num_rejected,
            "similar_images": self.num_similar,
            "classes": self.classes,
            "notes": self.notes,
        }


def group_of_name(name: str, *, group_regex: str | None) -> str:
    """Return the group of an image by its path inside the dataset, without the suffix."""
    stem, _ = posixpath.splitext(name)
    if group_regex is None:
        return stem
    match = re.search(group_regex, stem)
    group = match and (match.group(1) if match.groups() else match.group(0))
    if not group:
        raise HaustraError(
            f"{option('group_regex', group_regex)} does not match {stem!r}; expected a pattern "
            "that matches every image"
        )
    return group


def split_names(text: str) -> frozenset[str]:
    """Return the names in a text that commas separate."""
    return frozenset(as_text(name.strip()) for name in text.split(",") if name.strip())


def as_text(name: str) -> str:
    """Return a name in Unicode's form NFC, with what cannot be encoded as backslash escapes."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", name).encode(errors="backslashreplace").decode()


def read_size(width: Any, height: Any, *, source: str) -> tuple[int, int]:
    """Return the size that an annotation states; a side that is missing, blank or 0 is 0."""
    try:
        sides = [float(side or 0) for side in (width, height)]
        if all(side >= 0 and side == int(side) for side in sides):
            return int(sides[0]), int(sides[1])
    except (TypeError, ValueError, OverflowError):
        pass
    raise HaustraError(
        f"{source} states the size {width!r:.40} x {height!r:.40}; expected whole numbers of pixels"
    )


@dataclass
class _Import:
    """Checks and counts the frames of one run."""

    config: DatasetConfig
    run: SourceRun
    folder: Path
    writer: RunWriter
    split_of_image: dict[str, SplitName]
    """Split of each image in all runs by the digest of its bytes."""
    similar: SimilarImages | None  # None where groups are stated and none are to be merged
    num_boxes: int = 0
    num_empty: int = 0
    num_clipped: int = 0
    rejections: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    hints: dict[str, list[str]] = field(default_factory=dict)

    def add(self, frame: SourceFrame, *, read: Read, write: bool) -> None:
        """Check and count a frame, and write it on request."""
        name, image = as_text(frame.name), frame.image_rgb
        if image is None:
            data, group_name = read_image_bytes(frame.path), name
            size_wh, turned_wh, image = check_image(data, name=str(frame.path))
        else:
            data, group_name = b"", as_text(frame.path.name)
            size_wh, turned_wh = (image.shape[1], image.shape[0]), None
        annotation = Annotation()
        if frame.annotation is not None:
            annotation = read(frame.annotation, size_wh)
        pattern = self.config.group_regex
        group_id = self.config.group or (None if pattern else self.run.group)
        group_id = group_id or group_of_name(group_name, group_regex=pattern)
        hints = list(annotation.hints)
        if self.run.split is not None and data:
            other = self.split_of_image.setdefault(digest_bytes(data), self.run.split)
            if other != self.run.split:
                hints.append(f"image with the same bytes as one of split {other!r}")
        if data[:4] in (b"II*\0", b"MM\0*") and cv2.imcount(str(frame.path)) > 1:
            hints.append("file with several pages, of which the first is taken")
        hints += _check_size(frame, annotation, size_wh=size_wh, turned_wh=turned_wh)
        truths, rejected = self._check_boxes(annotation, size_wh=size_wh, hints=hints)
        picture = self._picture(frame, data, size_wh=size_wh, truths=truths)
        truths, rejected = picture.truths, rejected + list(picture.outside)
        hints += picture.hints
        self.num_clipped += picture.num_clipped
        if len({truth.bbox_px for truth in truths}) < len(truths):
            hints.append("boxes at the same place, all of which are kept")
        if rejected and not truths and not self.config.allow_unlabelled:
            raise HaustraError(
                f"{frame.source}: all {len(rejected)} box(es) of {name!r} are rejected "
                f"({rejected[0]}); correct them, or pass {option('allow_unlabelled', True)} to "
                "take such images as negatives"
            )
        self.num_boxes += len(truths)
        self.num_empty += frame.is_labeled and not truths
        self.rejections += [f"{name}: {reason}" for reason in rejected]
        for hint in hints:
            self.hints.setdefault(hint, []).append(name)
        if self.similar is not None and frame.image_rgb is None:
            self.similar.add(image, group_id=group_id)
        if write:
            self.writer.add_frame(
                picture.encoded(),
                suffix=picture.suffix,
                image_size_wh=picture.size_wh,
                labels=truths if frame.is_labeled else None,
                group_id=group_id,
                source_name=name,
                sim_time=frame.seconds,
                crop_px=picture.crop_px,
                rejected=rejected,
            )

    def _check_boxes(
        self, annotation: Annotation, *, size_wh: tuple[int, int], hints: list[str]
    ) -> tuple[list[PolypTruth], list[str]]:
        """Return the polyps of an image, and a reason for each box that is none; add to `hints`."""
        truths, rejected = list[PolypTruth](), list(annotation.rejected)
        chosen = self.config.chosen_classes
        for box in annotation.boxes:
            class_name = "(none)" if box.class_name in (None, "") else as_text(f"{box.class_name}")
            self.classes[class_name] += 1
            if chosen is not None and class_name not in chosen:
                continue
            checked = check_box_px(box.box_px, size_wh=size_wh)
            if isinstance(checked, str):
                rejected.append(checked)
                continue
            x0, y0, x1, y1 = checked.box_px
            if x1 <= 1 and y1 <= 1:
                rejected.append(
                    f"box {box.box_px} is within one pixel; expected pixels, not shares"
                )
                continue
            self.num_clipped += checked.clipped
            truths.append(PolypTruth(bbox_px=checked.box_px, lesion_id=box.lesion_id, **box.facts))
            if x0 <= 1 and y0 <= 1 and x1 >= size_wh[0] - 1 and y1 >= size_wh[1] - 1:
                hints.append("box that fills the whole image")
        return truths, rejected

    def _picture(
        self, frame: SourceFrame, data: bytes, *, size_wh: tuple[int, int], truths: list[PolypTruth]
    ) -> Picture:
        """Return a frame as it is written: a file, or its pixels where it is new or cropped."""
        image = frame.image_rgb
        picture = Picture(
            content=frame.path if image is None else image,
            suffix=frame.path.suffix.lower() if image is None else ".jpg",
            size_wh=size_wh,
            truths=truths,
        )
        if self.config.crop is None:
            return picture
        if image is None:
            image = decode_image_rgb(data, name=frame.name)
        return crop_picture(picture, image, field_of_view=self.run.field_of_view)

    def result(self, *, progress: Progress | None) -> ImportResult:
        """Return the counts and notes, which the manifest receives."""
        notes = self.similar.finish(self.writer, progress=progress) if self.similar else []
        result = ImportResult(
            folder=self.folder,
            num_images=self.writer.num_frames,
            num_boxes=self.num_boxes,
            num_empty=self.num_empty,
            num_clipped=self.num_clipped,
            num_rejected=len(self.rejections),
            num_similar=self.similar.num_similar if self.similar else 0,
            classes=dict(self.classes.most_common()),
            notes=[*self.run.notes, *notes, *self._notes()],
        )
        self.writer.manifest_fields = {"import_result": result.as_json()}
        return result

    def _notes(self) -> list[str]:
        """Return a line for each kind of remark and for each rejected box."""
        notes, chosen = [], self.config.chosen_classes
        if chosen is not None:
            for name in sorted(self.classes.keys() - chosen):
                notes.append(f"{self.classes[name]} box(es) of class {name!r} are left out")
        for hint, names in self.hints.items():
            notes.append(f"{hint}: {len(names)}, first in {names[0]!r}")
        return notes + self.rejections


def _check_size(
    frame: SourceFrame,
    annotation: Annotation,
    *,
    size_wh: tuple[int, int],
    turned_wh: tuple[int, int] | None,
) -> list[str]:
    """Compare the size that an annotation states with the image; return a hint, if any."""
    stated = annotation.size_wh
    if any(value not in (0, own) for value, own in zip(stated, size_wh, strict=True)):
        turned = " after its orientation tag (EXIF) is applied" if stated == turned_wh else ""
        text = "x".join(str(value or "?") for value in stated)
        raise HaustraError(
            f"{frame.path} is {size_wh[0]}x{size_wh[1]}{turned}, but {frame.source} is for an "
            f"image of {text}; expected the same size; turn or resize one of them as the other was"
        )
    if turned_wh is None or not annotation.boxes or (0 not in stated and turned_wh != size_wh):
        return []
    return ["orientation tag (EXIF): the boxes are taken as drawn on the upright image"]


def _class_problems(classes: Counter[str], *, config: DatasetConfig) -> list[str]:
    """Return what is wrong with the classes that were found or chosen."""
    chosen, setting = config.chosen_classes, config.class_option
    found = ", ".join(
        f"{name!r} ({counted(count, 'box')})" for name, count in classes.most_common()
    )
    if chosen is None and len(classes) > 1:
        first = classes.most_common(1)[0][0]
        return [
            f"the boxes have {len(classes)} classes: {found}; expected one; choose those "
            f"that are polyps with {option(setting, first)}"
        ]
    return [
        f"{option(setting, name)}: no box has this class; expected one of "
        f"{found or 'none: the dataset has no boxes'}"
        for name in sorted((chosen or frozenset()) - classes.keys())
    ]


def import_run(
    run: SourceRun,
    *,
    read: Read = read_as_is,
    default_name: str,
    config: DatasetConfig,
    progress: Progress | None,
) -> ImportResult:
    """Write one run folder, as `import_runs` does; a frame rate makes its images a video."""
    if config.frame_rate_hz is not None:
        run = replace(run, frames=sorted(run.frames, key=lambda frame: natural_key(frame.name)))
    [result] = import_runs(
        [run], read=read, default_name=default_name, config=config, progress=progress
    )
    return result


def import_runs(
    runs: Sequence[SourceRun],
    *,
    read: Read = read_as_is,
    default_name: str,
    config: DatasetConfig,
    progress: Progress | None,
) -> list[ImportResult]:
    """Write a run folder for each run of a dataset: all of them, or none if there is a mistake.

    `read` is the reader of the frames' annotations, and `default_name` the name of a run that the
    settings give neither id nor dataset.

    Raises:
        HaustraError: An image or annotation cannot be read, the annotations do not fit their
            images or are ambiguous, or a run exists. The message gives the number of mistakes and
            the first ten.
    """
    check_outputs(config)
    problems = [problem for run in runs for problem in run.problems]
    states: list[_Import] = []
    split_of_image: dict[str, SplitName] = {}
    with ExitStack() as stack:
        for run in runs:
            rate = config.frame_rate_hz or run.frame_rate_hz
            if config.crop and rate and isinstance(run.frames, Sequence):
                paths = [frame.path for frame in run.frames]
                run = replace(run, field_of_view=field_of_view_of_images(paths))
            run_id = config.run_id or slugify(config.dataset or default_name)
            run_id = slugify(f"{run_id} {run.name}") if run.name else run_id
            manifest = RunManifest(
                run_id=run_id,
                source="imported",
                split=run.split or config.split,
                frame_rate_hz=rate,
                dataset=config.dataset,
                licence=config.licence,
                citation=config.citation,
                crop=config.crop,
            )
            folder = config.output_root / f"run_{run_id}"
            writing = writing_run(folder, manifest=manifest, overwrite=config.overwrite)
            writer = stack.enter_context(writing)
            merges = config.group_by is not None
            is_stated = config.group or config.group_regex or run.group
            similar = SimilarImages(merges) if merges or not is_stated else None
            states.append(_Import(config, run, folder, writer, split_of_image, similar))
        for state, frame in track(
            ((of_run, frame) for of_run in states for frame in of_run.run.frames),
            progress=progress or SilentProgress(),
            description="import",
            total=sum(run.num_frames for run in runs),
        ):
            try:
                state.add(frame, read=read, write=not problems)
            except HaustraError as error:
                problems.append(error.message)
        found = sum((state.classes for state in states), Counter[str]())
        refuse(problems + _class_problems(found, config=config))
        return [of_run.result(progress=progress) for of_run in states]
