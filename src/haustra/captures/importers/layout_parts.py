"""The parts of a public dataset: how each becomes a run, and how its folders are found."""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from haustra.captures.importers.dataset import DatasetConfig, as_text
from haustra.captures.importers.listed import find_listed
from haustra.captures.importers.masks import read_mask
from haustra.captures.importers.paired import find_pairs, walk_files
from haustra.captures.importers.records import Annotation, Read, SourceFrame, SourceRun, read_as_is
from haustra.captures.importers.text import read_text
from haustra.captures.schema import SplitName
from haustra.core.images import IMAGE_SUFFIXES, natural_key


@dataclass(frozen=True)
class Run:
    """The images of a part."""

    folders: tuple[Path, ...]
    """Folders of its images and annotations."""
    find: Callable[[DatasetConfig], SourceRun]
    """Finds them, by the settings of the import."""
    read: Read = read_as_is
    """Reader of their annotations."""


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
    **how: Any,
) -> Run:
    """Return images with a mask or file of boxes each; the arguments are those of `find_pairs`."""

    def find(config: DatasetConfig) -> SourceRun:
        may_lack = config.allow_unlabelled
        if may_lack and not folder.is_dir():
            return _find_negatives(images)
        return find_pairs(
            images, folder, suffixes=suffixes, noun=noun, allow_unlabelled=may_lack, **how
        )

    return Run((images, folder), find, read)


def run_negatives(images: Path) -> Run:
    """Return images of which the dataset says that none shows a polyp."""
    return Run((images,), lambda _: _find_negatives(images))


def _find_negatives(images: Path) -> SourceRun:
    paths = (path for path in walk_files(images) if path.suffix.lower() in IMAGE_SUFFIXES)
    return SourceRun(
        frames=[
            SourceFrame(path=path, name=path.name, annotation=None, source=str(path))
            for path in paths
        ]
    )


def run_listed(images: Path, source: Path, *, boxes_of: Mapping[str, Annotation]) -> Run:
    """Return images whose annotations are given by stem or file name."""

    def find(config: DatasetConfig) -> SourceRun:
        paths = (path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        names = {as_text(path.stem): path.name for path in paths}
        listed = [(names.get(as_text(name), name), found) for name, found in boxes_of.items()]
        return find_listed(images, source, listed=listed, allow_unlabelled=config.allow_unlabelled)

    return Run((images,), find)


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
