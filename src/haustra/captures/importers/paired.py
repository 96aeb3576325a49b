"""Datasets with a file of the same stem for each image: masks, Pascal VOC and YOLO."""

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from haustra.captures.importers.dataset import (
    DatasetConfig,
    ImportConfig,
    ImportResult,
    as_text,
    import_run,
    read_size,
)
from haustra.captures.importers.records import Annotation, Read, SourceBox, SourceFrame, SourceRun
from haustra.captures.importers.text import read_text, read_xml
from haustra.core.errors import HaustraError, name_some, option
from haustra.core.images import IMAGE_SUFFIXES, natural_key
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

PREDICTED = "box that a program drew ({}), taken as a label"
"""Hint for a box with a sign of its origin."""
VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class VocImportConfig(ImportConfig):
    """Settings of `haustra import voc`."""

    zero_based: bool = False
    """Take coordinates as edges counted from 0, instead of pixels counted from 1 with both ends."""


def import_voc(
    images: StrPath, annotations: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of Pascal VOC annotations.

    Boxes of VOC are in pixels counted from 1, ends included; a `VocImportConfig` can change that.

    Raises:
        HaustraError: An image has no annotation, a file is malformed or of another format, its size
            is not that of its image, or an image is unreadable.
    """
    is_zero_based = isinstance(config, VocImportConfig) and config.zero_based
    return import_pairs(
        images,
        annotations,
        suffixes=(".xml",),
        noun="VOC annotation",
        read=partial(read_voc, zero_based=is_zero_based),
        config=config,
        progress=progress,
    )


def import_yolo(
    images: StrPath, labels: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of YOLO label files.

    A line of a label file is `class cx cy w h`, all but the class in 0..1. A file `classes.txt`
    beside them names the classes. As in YOLO, an image without a label file is a negative if any
    image has one; a note gives their number.

    Raises:
        HaustraError: A line is malformed, an image is unreadable, or a label has no image.
    """
    names_path = to_path(labels) / "classes.txt"
    names: dict[int, str] = {}
    if names_path.is_file():
        lines = read_text(names_path, what="a list of class names").splitlines()
        names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return import_pairs(
        images,
        labels,
        suffixes=(".txt",),
        noun="YOLO label file",
        read=partial(read_yolo, names=names),
        may_lack=True,
        config=config,
        progress=progress,
    )


def read_voc(path: Path, _size_wh: tuple[int, int], *, zero_based: bool) -> Annotation:
    """Read a file of Pascal VOC; `VocImportConfig` has `zero_based`."""
    root = read_xml(path, what="a VOC annotation")
    objects = root.findall("object")
    num_boxes = sum(len(list(item.iter("bndbox"))) for item in objects)
    structured = {item.tag for item in root if len(item)} - {"object", "size", "source", "owner"}
    is_known = root.tag == "annotation" and len(list(root.iter("bndbox"))) == num_boxes
    if not is_known or (structured and not objects):
        others = f" with {', '.join(sorted(structured))}" if structured else ""
        raise HaustraError(
            f"{path} holds <{root.tag}>{others}, which is not understood; expected a VOC "
            "annotation: <annotation> with an <object> for each box"
        )
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    annotation = Annotation(size_wh=read_size(*sides, source=str(path)))
    file_name = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    if file_name and as_text(PurePosixPath(file_name).stem) != as_text(path.stem):
        annotation.hints.append("annotation whose <filename> is another one")
    for item in objects:
        own = item.findall("bndbox")
        try:
            (box,) = own
            x0, y0, x1, y1 = (float(box.findtext(side) or "") for side in VOC_SIDES)
        except ValueError:
            raise HaustraError(
                f"{path}: an object lacks a bndbox of four numbers xmin, ymin, xmax, ymax"
                if len(own) < 2
                else f"{path}: an object has {len(own)} bndbox; expected one"
            ) from None
        if 0 in (x0, y0) and not zero_based:
            annotation.hints.append("coordinate 0, though VOC counts from 1; see --zero-based")
        if item.find("confidence") is not None:
            annotation.hints.append(PREDICTED.format("it has a confidence"))
        first = 0 if zero_based else 1
        annotation.boxes.append(
            SourceBox(
                box_px=[x0 - first, y0 - first, x1, y1],
                class_name=(item.findtext("name") or "").strip() or "(no name)",
                lesion_id=(item.findtext("unique_id") or "").strip() or None,
            )
        )
    return annotation


def read_yolo(path: Path, size_wh: tuple[int, int], *, names: Mapping[int, str]) -> Annotation:
    """Read a label file of YOLO; a class without a name is called by its number."""
    annotation = Annotation()
    for number, line in enumerate(read_text(path, what="a YOLO label file").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            number_of_class, cx, cy, width, height = (float(part) for part in line.split())
            if number_of_class != int(number_of_class) or number_of_class < 0:
                raise ValueError
        except (ValueError, OverflowError):
            raise HaustraError(
                f"{path}, line {number}: {line!r:.80}: expected the five numbers 'class cx cy w h'"
            ) from None
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        if any(value > 1.01 for value in (cx, cy, width, height)):
            annotation.rejected.append(
                f"line {number}: {line!r:.80} has a value above 1; expected shares of the image, "
                "not pixels"
            )
            continue
        annotation.boxes.append(
            SourceBox(
                box_px=[value * size_wh[index % 2] for index, value in enumerate(box)],
                class_name=names.get(int(number_of_class), str(int(number_of_class))),
            )
        )
    return annotation


def walk_files(folder: Path, *, without: Path | None = None) -> list[Path]:
    """Return the files below a folder in natural order, without hidden ones.

    Linked folders are followed once.

    Args:
        folder: The folder.
        without: A folder inside it to leave out.
    """

    def fail(error: OSError) -> NoReturn:
        raise HaustraError(f"{error.filename} cannot be listed: {error.strerror}") from None

    seen = {without.resolve()} if without and without.resolve() != folder.resolve() else set()
    files = []
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: natural_key(name_inside(path, folder=folder)))


def name_inside(path: Path, *, folder: Path) -> str:
    """Return the name, relative to `folder`, of a file that `walk_files` found in it."""
    start = str(folder)  # `relative_to` takes ten times as long
    return str(path).removeprefix("" if start == "." else start).lstrip("/")


def note_unread(folder: Path, counts: Counter[str]) -> list[str]:
    """Return a note on files of a folder that are not read, given their number by suffix."""
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted((+counts).items()))
    return [f"files of {folder} that are not read: {listed}"] if listed else []


def _by_stem(
    folder: Path,
    *,
    suffixes: tuple[str, ...],
    ignored: tuple[str, ...],
    without: Path,
    keep: Callable[[str], bool],
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the files of a folder by their path there without suffix, mistakes, and notes."""
    of_stem: dict[str, Path] = {}
    problems, skipped, inside = [], Counter[str](), set()
    for path in walk_files(folder, without=without):
        name = name_inside(path, folder=folder)
        stem, suffix = posixpath.splitext(name)
        suffix = suffix.lower()
        if suffix not in suffixes:
            skipped[suffix or "(no suffix)"] += suffix not in ignored
        if suffix not in suffixes or path.name == "classes.txt" or not keep(stem):
            continue
        if "/" in name:
            inside.add(name.rpartition("/")[0])
        other = of_stem.setdefault(as_text(stem), path)
        if other != path:
            problems.append(
                f"{other.name} and {name} of {folder} have the same stem, so they would be "
                "confused; expected one file per stem"
            )
    notes = note_unread(folder, skipped)
    if inside and suffixes == IMAGE_SUFFIXES:
        notes.append(f"{folder}: the files of {name_some(sorted(inside))} go into one run")
    return of_stem, problems, notes


def _existing(folder: StrPath, *, holds: str) -> Path:
    folder = to_path(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise HaustraError(f"{folder} {problem}; expected a folder of {holds}")
    return folder


def _both_by_stem(
    images: Path,
    folder: Path,
    *,
    suffixes: tuple[str, ...],
    keep: Callable[[str], bool],
    file_stem: Callable[[str], str],
) -> tuple[dict[str, Path], dict[str, Path], list[str], list[str], list[str]]:
    """Return images and annotation files by stem, which may share a folder.

    Problems, notes, and the notes of the annotation files alone follow.
    """
    is_one = images.resolve() == folder.resolve()
    image_of, problems, seen = _by_stem(
        images,
        suffixes=IMAGE_SUFFIXES,
        ignored=suffixes if is_one else (),
        without=folder,
        keep=keep,
    )
    file_of, more_problems, skipped = _by_stem(
        folder,
        suffixes=suffixes,
        ignored=IMAGE_SUFFIXES if is_one else (),
        without=images,
        keep=keep,
    )
    if is_one and suffixes == IMAGE_SUFFIXES:  # masks beside their images
        stems = {file_stem(stem) for stem in image_of}
        file_of = {stem: path for stem, path in image_of.items() if stem in stems}
        image_of = {stem: path for stem, path in image_of.items() if stem not in stems}
    elif not is_one:
        problems, seen = problems + more_problems, seen + skipped
    return image_of, file_of, problems, seen, skipped


def find_pairs(
    images: StrPath,
    folder: StrPath,
    *,
    suffixes: tuple[str, ...],
    noun: str,
    file_name: str = "{stem}",
    keep: Callable[[str], bool] = bool,
    may_lack: bool = False,
    allow_unlabelled: bool,
) -> SourceRun:
    """Find the images of a folder, and for each its annotation file of the same stem.

    Images and files in subfolders pair by their path inside the folder.

    Args:
        images: Folder of the images.
        folder: Folder of the annotation files.
        suffixes: Suffixes of the annotation files, in lower case.
        noun: What such a file is called in messages, such as `mask`.
        file_name: Stem of an annotation file, with `{stem}` for the image's, whose last `_` may be
            missing.
        keep: Returns True for the path without suffix of an image or file that is to be read.
        may_lack: An image without a file is a negative if others have one, instead of a mistake.
        allow_unlabelled: An image without a file is a negative.
    """
    images = _existing(images, holds="images")
    folder = _existing(folder, holds=f"{noun}s")

    def file_stem(stem: str) -> str:
        inside, _, name = stem.rpartition("/")
        return f"{inside}/" * bool(inside) + file_name.replace("{stem}", name)

    image_of, file_of, problems, seen, skipped = _both_by_stem(
        images, folder, suffixes=suffixes, keep=keep, file_stem=file_stem
    )
    if not image_of:
        listed = f" ({seen[0]})" if seen else ""
        raise HaustraError(f"{images} holds no image (PNG, JPEG, BMP, TIFF or WebP){listed}")
    pairs = {stem: file_of.pop(file_stem(stem), None) for stem in image_of}
    lacking = [stem for stem, file in pairs.items() if file is None]
    for stem in lacking:  # PolypGen has C3_EndoCV2021_00489_.jpg
        pairs[stem] = file_of.pop(file_stem(stem.rstrip("_")), None)
    lacking = [stem for stem in lacking if pairs[stem] is None]
    if lacking and not allow_unlabelled and (len(lacking) == len(pairs) or not may_lack):
        problems.append(
            f"{len(lacking)} image(s) of {images} have no {noun} in {folder}: "
            f"{name_some(lacking)}; expected {noun}s named {file_name!r}, or "
            f"{option('allow_unlabelled', True)} to take such images as negatives"
            + (f" ({skipped[-1]})" if skipped else "")
        )
    elif lacking:
        seen.insert(0, f"{len(lacking)} image(s) have no {noun}: taken as negatives")
    if file_of:
        listed = f" ({seen[-1]})" if seen else ""
        problems.append(
            f"{len(file_of)} {noun}(s) of {folder} have no image in {images}: "
            f"{name_some(list(file_of))}; expected an image for each {noun}, which is named "
            f"{file_name!r}{listed}"
        )
    frames = [
        SourceFrame(
            path=path,
            name=name_inside(path, folder=images),
            annotation=pairs[stem],
            source=str(pairs[stem]),
        )
        for stem, path in image_of.items()
    ]
    return SourceRun(frames=frames, problems=problems, notes=seen)


def import_pairs(
    images: StrPath,
    folder: StrPath,
    *,
    read: Read,
    config: DatasetConfig,
    progress: Progress | None,
    **how: Any,
) -> ImportResult:
    """Import a folder of images that has one annotation file of the same stem for each image.

    `read` is the reader of such a file, and `how` the further arguments of `find_pairs`.
    """
    run = find_pairs(images, folder, allow_unlabelled=config.allow_unlabelled, **how)
    name = to_path(images).resolve().parent.name
    return import_run(run, read=read, default_name=name, config=config, progress=progress)
