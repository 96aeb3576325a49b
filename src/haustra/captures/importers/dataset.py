"""The part that all importers share: from images with boxes to one run folder.

Images are hard-linked or copied byte for byte, never encoded again. A box that cannot be used is
rejected and named; an image that cannot be read stops the import, so that nothing is lost
unnoticed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from haustra.captures.reader import slugify
from haustra.captures.schema import RunManifest
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.boxes import check_box_px
from haustra.core.checked import CheckedSettings, OutputFolder
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_json_atomic
from haustra.core.images import read_image_rgb
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track


@dataclass(frozen=True, kw_only=True)
class ImportConfig(CheckedSettings):
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


def import_frames(
    frames: Sequence[tuple[Path, str, Any]],
    *,
    read_boxes: Callable[[Any, tuple[int, int]], list[Any]],
    images: Path,
    notes: Sequence[str],
    config: ImportConfig,
    progress: Progress | None,
) -> ImportResult:
    """Write one run folder from a dataset's frames.

    Args:
        frames: Each image's file, its path inside the dataset with forward slashes, and its
            annotation, in the order of the run.
        read_boxes: Returns an annotation's raw boxes `x0,y0,x1,y1` in pixels of an image of this
            size (width, height).
        images: Folder of the images; its parent names a run without id and dataset.
        notes: Notes of the importer, which come first in the result.
        config: Name, grouping and provenance of the run.
        progress: Receives the progress.

    Raises:
        HaustraError: An image or annotation cannot be read, or the run exists.
    """
    check_outputs(config)
    run_id = config.run_id or slugify(config.dataset or images.resolve().parent.name)
    folder = config.output_root / f"run_{run_id}"
    all_notes = list(notes)
    num_boxes = num_empty = num_clipped = 0
    manifest = RunManifest(
        run_id=run_id,
        source="imported",
        dataset=config.dataset,
        licence=config.licence,
        citation=config.citation,
    )
    with writing_run(folder, manifest=manifest, overwrite=config.overwrite) as writer:
        for path, name, annotation in track(
            frames, progress=progress or SilentProgress(), description="import", total=len(frames)
        ):
            image = read_image_rgb(path)
            size_wh = (image.shape[1], image.shape[0])
            truths = []
            for box in read_boxes(annotation, size_wh):
                checked = check_box_px(box, size_wh=size_wh)
                if isinstance(checked, str):
                    all_notes.append(f"{name}: {checked}")
                    continue
                num_clipped += checked.clipped
                truths.append(PolypTruth(bbox_px=checked.box_px))
            writer.add_frame(
                path,
                suffix=path.suffix.lower(),
                image_size_wh=size_wh,
                labels=truths,
                group_id=group_of_name(name, group_regex=config.group_regex),
                source_name=name,
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
