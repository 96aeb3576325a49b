"""Datasets whose annotation file lists the images: COCO, CVAT and Label Studio."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from haustra.captures.importers.dataset import ImportConfig, ImportResult, as_text, import_run
from haustra.captures.importers.paired import name_inside, walk_files
from haustra.captures.importers.records import Annotation, SourceFrame, SourceRun
from haustra.core.errors import HaustraError, name_some, option
from haustra.core.images import IMAGE_SUFFIXES
from haustra.core.progress import Progress


def _key(name: str) -> str:
    """Return a name in Unicode's form NFC with its suffix in lower case, to compare names by."""
    stem, suffix = posixpath.splitext(as_text(name))
    return stem + suffix.lower()


UNCONFIRMED = "predictions that nobody has confirmed"
"""Mark in the files of `haustra convert`; the export of a labeling tool lacks it."""


def unconfirmed_error(path: Path, *, num_boxes: int) -> HaustraError:
    """Return the error for a file of `haustra convert` that comes back unchanged."""
    return HaustraError(
        f"{path} is as `haustra convert` wrote it: its {num_boxes} boxes are {UNCONFIRMED}; "
        "expected the export of a labeling tool, after a person has looked at them"
    )


def _find_image(images: Path, *, name: str, files: dict[str, list[str]], source: Path) -> Path:
    """Return the path of a listed image; links inside the folder are followed.

    Args:
        images: The folder.
        name: File name in the annotations.
        files: Paths inside the folder by their `_key`, and by that of their base name.
        source: The annotation file, for messages.
    """
    problem = ""
    for text in (name, name.replace("\\", "/")):
        inside = posixpath.normpath(text)
        if inside.startswith(("/", "../")) or inside in ("..", ".") or "\0" in inside:
            problem = "points outside"
            continue
        problem = "is not a file in"
        try:
            if (images / inside).is_file():
                return images / inside
        except (OSError, UnicodeEncodeError):
            continue
        same = [file for file in files[_key(inside)] if _key(file) == _key(inside)]
        if len(same) == 1:
            return images / same[0]
    bases = files[_key(re.split(r"[/\\=]", unquote(name))[-1].strip())]
    remedy = f"; change the file name to {bases[0]!r}" if bases else ""
    raise HaustraError(
        f"{source}: image {name!r:.200} {problem} {images}; expected a path inside it{remedy}"
    )


def import_listed(
    images: Path,
    annotations: Path,
    *,
    listed: Sequence[tuple[str, Annotation]],
    notes: Sequence[str] = (),
    config: ImportConfig,
    progress: Progress | None,
) -> ImportResult:
    """Import the images that an annotation file lists as one run, after notes of the importer."""
    run = find_listed(images, annotations, listed=listed, allow_unlabelled=config.allow_unlabelled)
    run = replace(run, notes=[*notes, *run.notes])
    name = images.resolve().parent.name
    return import_run(run, default_name=name, config=config, progress=progress)


def find_listed(
    images: Path,
    annotations: Path,
    *,
    listed: Sequence[tuple[str, Annotation]],
    allow_unlabelled: bool,
) -> SourceRun:
    """Find the images that an annotation file lists.

    Args:
        images: Folder that the file names are relative to.
        annotations: The annotation file.
        listed: File name and annotation of each image.
        allow_unlabelled: All images may be negatives.
    """
    if not listed:
        raise HaustraError(f"{annotations} lists no image")
    frames, problems, notes = list[SourceFrame](), list[str](), list[str]()
    if not allow_unlabelled and not any(a.boxes or a.rejected for _, a in listed):
        problems.append(
            f"{annotations} has no annotation for any of its {len(listed)} image(s); expected "
            f"some, or {option('allow_unlabelled', True)} if all of them are negatives"
        )
    files = walk_files(images)
    by_key = defaultdict[str, list[str]](list)
    for path in files:
        relative = name_inside(path, folder=images)
        for key in {_key(relative), _key(path.name)}:
            by_key[key].append(relative)
    for name, annotation in listed:
        try:
            path = _find_image(images, name=name, files=by_key, source=annotations)
        except HaustraError as error:
            problems.append(error.message)
            continue
        relative = name_inside(path, folder=images)
        frames.append(
            SourceFrame(path=path, name=relative, annotation=annotation, source=str(annotations))
        )
    for name, count in Counter(frame.name for frame in frames).items():
        if count > 1:
            notes.append(f"{name} is listed {count} times")
    known = {frame.path for frame in frames}
    unlisted = [
        name_inside(path, folder=images)
        for path in files
        if path.suffix.lower() in IMAGE_SUFFIXES and path not in known
    ]
    if unlisted:
        notes.append(f"{len(unlisted)} image(s) are not listed, left out: {name_some(unlisted)}")
    return SourceRun(frames=frames, problems=problems, notes=notes)
