"""What all importers share: from (image, boxes) pairs to one run folder.

Images are hard-linked or copied byte for byte, never re-encoded. A box that cannot be used is
rejected and named; an image that cannot be read stops the import, so that nothing goes missing
unseen.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from haustra.captures.reader import slugify
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.boxes import check_box_px
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic
from haustra.core.images import list_images, read_image_rgb
from haustra.core.progress import Progress, SilentProgress, track


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings that every `haustra import` format takes."""

    output_root: Path = Path("captures")
    """Capture root in which the run folder is made."""
    run_id: str | None = None
    """Name of the run; made from --dataset or the images' folder by default."""
    dataset: str | None = None
    """Name of the data set, kept in the run manifest."""
    licence: str | None = None
    """Licence of the data, kept in the run manifest."""
    citation: str | None = None
    """How to cite the data, kept in the run manifest."""
    group_regex: str | None = None
    """Pattern searched in each image's path without its suffix; its first group (or the whole
    match) is the patient or sequence that splits may not cut. By default every image is a group
    of its own."""
    overwrite: bool = False
    """Replace a run folder of the same name."""

    def __post_init__(self) -> None:
        if self.group_regex is not None:
            try:
                re.compile(self.group_regex)
            except re.error as error:
                raise HaustraError(
                    f"--group-regex {self.group_regex!r} is not a regular expression: {error}"
                ) from None
        if self.run_id is not None and slugify(self.run_id) != self.run_id.lower().replace(
            "_", "-"
        ):
            raise HaustraError(
                f"--run-id {self.run_id!r}: expected letters, digits, '-' and '_' only"
            )


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    """One image of a data set."""

    image_path: Path
    read_boxes: Callable[[tuple[int, int]], list[Any]]
    """From the image's size (width, height) to its raw boxes `x0,y0,x1,y1` in pixels."""
    name: str
    """The image's path inside the data set, with forward slashes; its stem names the group."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What an import made."""

    folder: Path
    num_images: int
    num_boxes: int
    num_empty: int
    num_clipped: int
    notes: list[str]
    """What the user should know: rejected boxes, images without annotation."""


def group_of_name(name: str, *, group_regex: str | None) -> str:
    """Return the group of an image by its path inside the data set, without the suffix.

    Raises:
        HaustraError: the pattern does not match, or its first group is empty.
    """
    stem = PurePosixPath(name).with_suffix("").as_posix()
    if group_regex is None:
        return stem
    match = re.search(group_regex, stem)
    group = match and (match.group(1) if match.groups() else match.group(0))
    if not group:
        raise HaustraError(
            f"--group-regex {group_regex!r} does not match {stem!r}; expected a pattern that "
            "matches every image"
        )
    return group


def list_source_images(folder: Path) -> list[Path]:
    """Return the images of a data set's folder.

    Raises:
        HaustraError: no folder, no image in it, or two images of one stem.
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
                "cannot be told apart; expected one image per stem"
            )
    return images


def import_frames(
    frames: Iterable[SourceFrame],
    *,
    total: int,
    config: ImportConfig,
    default_name: str,
    notes: list[str] | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Write one run folder from a data set's frames.

    Args:
        frames: the images and how to get their boxes, in the order of the run.
        total: how many there are.
        config: run name, grouping, provenance.
        default_name: what the run is called where neither run id nor data set is given.
        notes: what the importer has to tell already.
        progress: where to show how far it is.

    Raises:
        HaustraError: an image or annotation cannot be read, or the run exists.
    """
    run_id = config.run_id or slugify(config.dataset or default_name)
    folder = config.output_root / f"run_{run_id}"
    notes = list(notes or [])
    num_boxes = num_empty = num_clipped = 0
    with writing_run(
        folder,
        run_id=run_id,
        source="imported",
        group_id=None,
        overwrite=config.overwrite,
        dataset=config.dataset,
        licence=config.licence,
        citation=config.citation,
    ) as writer:
        for frame in track(
            frames, progress=progress or SilentProgress(), description="import", total=total
        ):
            image = read_image_rgb(frame.image_path)
            size_wh = (image.shape[1], image.shape[0])
            truths = []
            for box in frame.read_boxes(size_wh):
                checked = check_box_px(box, size_wh=size_wh)
                if isinstance(checked, str):
                    notes.append(f"{frame.name}: {checked}")
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
        write_json_atomic(writer.folder / "import_report.json", value={"notes": notes})
    return ImportResult(
        folder=folder,
        num_images=writer.num_frames,
        num_boxes=num_boxes,
        num_empty=num_empty,
        num_clipped=num_clipped,
        notes=notes,
    )
