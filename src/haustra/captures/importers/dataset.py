"""The part that all importers share: from images with boxes to one run folder.

Images are hard-linked or copied byte for byte, never encoded again. A box that cannot be used is
rejected and named; an image that cannot be read stops the import, so that nothing is lost
unnoticed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from haustra.captures.reader import slugify
from haustra.captures.schema import RunManifest
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.boxes import check_box_px
from haustra.core.checked import CheckedSettings
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_json_atomic
from haustra.core.images import list_images, read_image_rgb
from haustra.core.paths import StrPath
from haustra.core.progress import Progress, SilentProgress, track


@dataclass(frozen=True, kw_only=True)
class ImportConfig(CheckedSettings):
    """Settings that every format of `haustra import` takes."""

    output_root: Path = Path("captures")
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
    overwrite: bool = False
    """Replace a run folder of the same name."""

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
class SourceFrame:
    """One image of a dataset."""

    image_path: Path
    read_boxes: Callable[[tuple[int, int]], list[Any]]
    """Returns the raw boxes `x0,y0,x1,y1` in pixels of an image of this size (width, height)."""
    name: str
    """Path of the image inside the dataset, with forward slashes; its stem names the group."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """The run that an import made."""

    folder: Path
    num_images: int
    num_boxes: int
    num_empty: int
    num_clipped: int
    notes: list[str]
    """Lines for the user: rejected boxes, images without annotation."""


def group_of_name(name: str, *, group_regex: str | None) -> str:
    """Return the group of an image by its path inside the dataset, without the suffix.

    Raises:
        HaustraError: The pattern does not match, or its first group is empty.
    """
    stem = PurePosixPath(name).with_suffix("").as_posix()
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


def list_source_images(folder: Path) -> list[Path]:
    """Return the images of a dataset's folder.

    Raises:
        HaustraError: There is no folder or no image in it, or two images have one stem.
    """
    if not folder.is_dir():
        raise HaustraError(f"{folder} does not exist; expected a folder of images")
    images = list_images(folder)
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


def import_frames(
    frames: Sequence[SourceFrame],
    *,
    images: Path,
    config: ImportConfig,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> ImportResult:
    """Write one run folder from a dataset's frames.

    Args:
        frames: The images and their boxes, in the order of the run.
        images: Folder of the images; its parent names a run without id and dataset.
        config: Name, grouping and provenance of the run.
        notes: Notes of the importer, which come first in the result.
        progress: Receives the progress.

    Raises:
        HaustraError: An image or annotation cannot be read, or the run exists.
    """
    run_id = config.run_id or slugify(config.dataset or images.resolve().parent.name)
    folder = config.output_root / f"run_{run_id}"
    all_notes = list(notes)
    num_boxes = num_empty = num_clipped = 0
    with writing_run(
        folder,
        manifest=RunManifest(
            run_id=run_id,
            source="imported",
            group_id=None,
            dataset=config.dataset,
            licence=config.licence,
            citation=config.citation,
        ),
        overwrite=config.overwrite,
    ) as writer:
        for frame in track(
            frames, progress=progress or SilentProgress(), description="import", total=len(frames)
        ):
            image = read_image_rgb(frame.image_path)
            size_wh = (image.shape[1], image.shape[0])
            truths = []
            for box in frame.read_boxes(size_wh):
                checked = check_box_px(box, size_wh=size_wh)
                if isinstance(checked, str):
                    all_notes.append(f"{frame.name}: {checked}")
                    continue
                num_clipped += checked.clipped
                truths.append(PolypTruth(bbox_px=checked.box_px))
            writer.add_frame(
                frame.image_path,
                suffix=frame.image_path.suffix.lower(),
                image_size_wh=size_wh,
                labels=truths,
                group_id=group_of_name(frame.name, group_regex=config.group_regex),
                source_name=frame.name,
            )
            num_boxes += len(truths)
            num_empty += not truths
        write_json_atomic(writer.folder / "import_report.json", value={"notes": all_notes})
    return ImportResult(
        folder=folder,
        num_images=writer.num_frames,
        num_boxes=num_boxes,
        num_empty=num_empty,
        num_clipped=num_clipped,
        notes=all_notes,
    )


def import_images_with_files(
    images: StrPath,
    folder: StrPath,
    *,
    list_files: Callable[[Path], Sequence[Path]],
    noun: str,
    read_boxes: Callable[[Path, tuple[int, int]], list[Any]],
    may_lack: bool = False,
    config: ImportConfig,
    progress: Progress | None = None,
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
    image_paths = list_source_images(images)
    file_of_stem = {path.stem: path for path in list_files(folder)}
    stems = {path.stem for path in image_paths}
    lacking, alone = sorted(stems - file_of_stem.keys()), sorted(file_of_stem.keys() - stems)
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
    frames = [
        SourceFrame(
            image_path=path,
            name=path.name,
            read_boxes=partial(read_boxes, file_of_stem[path.stem])
            if path.stem in file_of_stem
            else lambda _: [],
        )
        for path in image_paths
    ]
    notes = [f"{len(lacking)} image(s) have no {noun}: taken as negatives"] if lacking else []
    return import_frames(frames, images=images, config=config, notes=notes, progress=progress)
