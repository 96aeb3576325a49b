"""The parts of a public dataset: how each becomes a run, and how its folders are found."""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from haustra.captures.importers.dataset import (
    DatasetConfig,
    ImportConfig,
    ImportResult,
    as_text,
    import_frames,
)
from haustra.captures.importers.listed import import_listed
from haustra.captures.importers.masks import read_mask
from haustra.captures.importers.paired import import_pairs, walk_files
from haustra.captures.importers.records import Annotation, SourceFrame
from haustra.captures.importers.text import read_text
from haustra.captures.schema import SplitName
from haustra.core.images import IMAGE_SUFFIXES, natural_key

Read = Callable[[Path, tuple[int, int]], Annotation]
"""Reads an annotation file for an image of this width and height."""


@dataclass(frozen=True)
class Run:
    """The import of a part."""

    folders: tuple[Path, ...]
    """Folders of its images and annotations."""
    start: Callable[..., ImportResult]
    """Imports with a config, notes and a progress."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a dataset that becomes one run."""

    name: str
    """Name inside the dataset, such as `c1`; empty if there is one part."""
    group: str | None = None
    """Patient, center or sequence of all its images; None if each image is a group."""
    frame_rate_hz: float | None = None
    split: SplitName | None = None
    """Split that the dataset states."""
    notes: tuple[str, ...] = ()
    run: Run


def run_pairs(
    images: Path,
    folder: Path,
    *,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    noun: str = "mask",
    read: Read = read_mask,
    file_name: str = "{stem}",
    keep: Callable[[str], bool] = bool,
) -> Run:
    """Return the import of images with a mask or file of boxes each, as `import_pairs` does it."""

    def run(config: DatasetConfig, **rest: Any) -> ImportResult:
        if config.allow_unlabelled and not folder.is_dir():
            return run_negatives(images).start(config, **rest)
        return import_pairs(
            images,
            folder,
            suffixes=suffixes,
            noun=noun,
            read=read,
            file_name=file_name,
            keep=keep,
            config=config,
            classes=None,
            class_option="mask_values" if noun == "mask" else "classes",
            **rest,
        )

    return Run((images, folder), run)


def run_negatives(images: Path) -> Run:
    """Return the import of images of which the dataset says that none shows a polyp."""

    def run(config: DatasetConfig, **rest: Any) -> ImportResult:
        frames = [
            SourceFrame(path=path, name=path.name, annotation=None, source=str(path))
            for path in walk_files(images)
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        return import_frames(
            frames,
            read=lambda _annotation, _size_wh: Annotation(),
            default_name=images.name,
            total=len(frames),
            config=config,
            classes=None,
            **rest,
        )

    return Run((images,), run)


def run_listed(images: Path, source: Path, *, boxes_of: Mapping[str, Annotation]) -> Run:
    """Return the import of the images whose annotations are given by stem or file name."""

    def run(config: DatasetConfig, **rest: Any) -> ImportResult:
        paths = (path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        names = {as_text(path.stem): path.name for path in paths}
        listed = [(names.get(as_text(name), name), found) for name, found in boxes_of.items()]
        shared = {item.name: getattr(config, item.name) for item in fields(DatasetConfig)}
        return import_listed(images, source, listed=listed, config=ImportConfig(**shared), **rest)

    return Run((images,), run)


def add_facts(
    annotation: Annotation,
    facts: Mapping[str, Mapping[str, Any]],
    *,
    lesion_id: str | None = None,
    image: str = "",
) -> Annotation:
    """Add what the dataset states to each box, and return the annotation.

    Args:
        annotation: The boxes of an image.
        facts: Fields of `PolypTruth` by lesion, and by image.
        lesion_id: The one lesion of the part; not given to boxes that share their image.
        image: Stem of the image.
    """
    if lesion_id is not None and len(annotation.boxes) > 1:
        annotation.hints.append("frame with several boxes, of which none gets a lesion")
        return annotation
    annotation.boxes[:] = [
        replace(
            box,
            lesion_id=(own := lesion_id or box.lesion_id),
            facts={**facts.get(image, {}), **facts.get(own or "", {})},
        )
        for box in annotation.boxes
    ]
    return annotation


def find_folder(root: Path, *names: str) -> Path | None:
    """Return the first folder of these names, in any case, in `root`."""
    found = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    return next((found[name] for name in names if name in found), None)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder in natural order, without hidden ones."""
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    return sorted(found, key=lambda path: natural_key(path.name))


def all_folders(root: Path) -> list[Path]:
    """Return `root` and the folders below it in natural order, without hidden ones."""
    found = []
    for here, names, _ in os.walk(root):
        names[:] = [name for name in names if name[0] not in "._"]
        found.append(Path(here))
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def place_of(folder: Path, *, root: Path) -> tuple[list[str], SplitName | None]:
    """Return the path of a folder from `root`, and the split that a folder on it states.

    The path begins before the folder of the split: TestEasyDataset/Seen and TestHardDataset/Seen
    are two folders.
    """
    inside = list(folder.relative_to(root).parts)
    for number, part in enumerate([root.resolve().name, *inside]):
        if found := re.fullmatch("(train|val|test).*dataset|trainvalid|train|test", part.lower()):
            split = found[1] or part.lower().removesuffix("valid")
            return inside[max(number - 1, 0) :], cast("SplitName", split)
    return inside, None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with commas by column; a missing table has none.

    A row with more cells than columns is left out: a decimal comma may have cut a number in two.
    """
    if not path.is_file():
        return []
    rows = csv.DictReader(read_text(path, what="a table").splitlines())
    whole = (row for row in rows if not any(row.pop(None, ())))
    return [{key.strip(): value or "" for key, value in row.items()} for row in whole]


def read_number(text: str) -> float | None:
    """Return the number above 0 that a cell of a table holds, if any."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def image_stems(folder: Path) -> Sequence[str]:
    """Return the stems of the images in a folder and below, in natural order."""
    return [path.stem for path in walk_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
