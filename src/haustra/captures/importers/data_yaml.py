"""Datasets of YOLO with a `data.yaml`, which names classes and splits: one run for each split.

Paths are found as Ultralytics finds them: relative to `path`, or to the folder of the file.
"""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from haustra.captures.importers.dataset import ImportConfig, ImportResult, as_text, import_runs
from haustra.captures.importers.paired import note_unread, read_yolo, walk_files
from haustra.captures.importers.records import Annotation, SourceFrame, SourceRun
from haustra.captures.importers.text import read_text
from haustra.captures.schema import OTHER_SPLIT_NAMES, SplitName
from haustra.core.errors import HaustraError, name_some, option, refuse
from haustra.core.images import IMAGE_SUFFIXES, natural_key
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
EMPTY = ("", "null", "Null", "NULL", "~")
"""Ways to write no value in YAML."""


@dataclass(frozen=True, kw_only=True)
class _DataYaml:
    """The content of the file."""

    path: Path
    root: Path  # folder that the entries are relative to
    entries: dict[SplitName, list[str]]
    """Folders of images and lists of images (`.txt`) of each split."""
    names: dict[int, str]  # class names by number; empty if the file has none
    notes: list[str]


def import_data_yaml(
    path: StrPath, *, config: ImportConfig | None = None, progress: Progress | None = None
) -> list[ImportResult]:
    """Import a dataset of YOLO by its `data.yaml`, or by the folder that holds it.

    The label file of an image is that of its stem in the folder with `labels` for `images`. As in
    YOLO, an image without one is a negative if any image of its split has one.

    Raises:
        HaustraError: The file is not a `data.yaml`, names what does not exist, or puts an image
            into two splits; or what `import_runs` raises.
    """
    path, config = _find_file(to_path(path)), config or ImportConfig()
    if config.split is not None:
        raise HaustraError(
            f"{option('split', config.split)}: {path} states the splits itself; expected one of "
            "them"
        )
    data = _read_file(path)
    problems: list[str] = []
    images: dict[SplitName, list[Path]] = {}
    notes: dict[SplitName, list[str]] = {}
    for split, entries in data.entries.items():
        notes[split] = []
        try:
            images[split] = _find_images(entries, split=split, data=data, notes=notes[split])
        except HaustraError as error:
            problems.append(error.message)
    own = _compare_splits(images, data=data, problems=problems, notes=notes)
    runs: list[SourceRun] = []
    expected = {path: _label_path(path) for paths in own.values() for path in paths}
    files = _find_labels(expected, data=data, problems=problems, notes=data.notes)
    for split, paths in own.items():
        frames = [
            SourceFrame(
                path=path,
                name=_name_in(path, root=data.root),
                annotation=files.get(_stem(expected[path])),
                source=str(expected[path]),
            )
            for path in paths
        ]
        if lacking := sum(frame.annotation is None for frame in frames):
            if lacking == len(frames) and not config.allow_unlabelled:
                problems.append(
                    f"{data.path}: none of the {lacking} image(s) of {split} has a YOLO label "
                    f"file; expected files such as {expected[paths[0]]}, or "
                    f"{option('allow_unlabelled', True)} to take such images as negatives"
                )
            notes[split].append(f"{lacking} image(s) have no YOLO label file: taken as negatives")
        is_only = len(own) == 1 < len(data.entries)
        runs.append(
            SourceRun(
                frames=frames,
                name="" if is_only else split,
                split=None if is_only else split,
                notes=[*(data.notes if not runs else ()), *notes[split]],
            )
        )
    if not runs:
        refuse(problems)
    runs[0] = replace(runs[0], problems=problems)
    return import_runs(
        runs,
        read=partial(_read, data=data),
        default_name=path.resolve().parent.name,
        config=replace(config, classes=_by_name(config.classes, names=data.names)),
        progress=progress,
    )


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [file for suffix in ("yaml", "yml") for file in sorted(path.glob(f"[!.]*.{suffix}"))]
    chosen = [file for file in found if file.stem == "data"] or found
    if len(chosen) != 1:
        there = f"{len(found)}: {name_some([file.name for file in found])}" if found else "none"
        raise HaustraError(
            f"{path} is a folder with {there}; expected one data.yaml; name it, or name the "
            "folders of images and of labels"
        )
    return chosen[0]


def _read_file(path: Path) -> _DataYaml:
    what = "the data.yaml of a YOLO dataset"
    try:
        # Everything stays text, so that a class can be called `no` or `1`.
        value = yaml.load(read_text(path, what=what), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise HaustraError(f"{path} is not YAML ({error}); expected {what}") from None
    if not isinstance(value, dict):
        raise HaustraError(f"{path} holds no keys; expected {what}, with train, val or test")
    entries: dict[SplitName, list[str]] = {}
    for key, entry in value.items():
        split = OTHER_SPLIT_NAMES.get(key, key)
        if split not in SPLITS or entry in EMPTY:
            continue
        listed = entry if isinstance(entry, list) else [entry]
        if not listed or not all(isinstance(item, str) and item for item in listed):
            raise HaustraError(f"{path}: {key} is {entry!r:.80}; expected a path or a list of them")
        if split in entries:
            raise HaustraError(f"{path} has two keys for the split {split!r}; expected one")
        entries[split] = listed
    if not entries:
        raise HaustraError(f"{path} has no train, val or test; expected {what}")
    root, notes = path.parent, []
    stated = value.get("path", "")
    if isinstance(stated, str) and stated not in EMPTY:
        found = (base for base in (path.parent / stated, Path(stated)) if base.is_dir())
        root = next(found, path.parent)
        if root == path.parent and not (path.parent / stated).is_dir():
            notes.append(f"path {stated!r} of {path.name} does not exist: its own folder is taken")
    return _DataYaml(
        path=path, root=root, entries=entries, names=_class_names(value, path=path), notes=notes
    )


def _class_names(value: dict[str, object], *, path: Path) -> dict[int, str]:
    """Return the class names by number.

    Raises:
        HaustraError: They are not names by number, their number is not `nc`, or two are the same.
    """
    stated = value.get("names", "")
    pairs: list[tuple[object, object]] = list(enumerate(stated)) if isinstance(stated, list) else []
    if isinstance(stated, dict):
        pairs = list(stated.items())
    names = {
        int(str(key)): as_text(name.strip())
        for key, name in pairs
        if str(key).isdecimal() and isinstance(name, str) and name.strip()
    }
    if len(names) < len(pairs) or (not pairs and stated not in (*EMPTY, [], {})):
        raise HaustraError(
            f"{path}: names is {stated!r:.80}; expected a list of names, or a name for each number"
        )
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise HaustraError(
                f"{path}: {count} classes are called {name!r}; expected different names"
            )
    if names and (count_text := value.get("nc", "")) not in (*EMPTY, str(len(names))):
        raise HaustraError(f"{path}: nc is {count_text!r}, but names has {len(names)}")
    return names


def _by_name(classes: str | None, *, names: dict[int, str]) -> str | None:
    """Return the chosen classes by name; a number that is not a name itself is that of a class."""
    if classes is None:
        return None
    known = {str(number): name for number, name in names.items()} | {n: n for n in names.values()}
    return ",".join(known.get(part.strip(), part) for part in classes.split(","))


def _find(entry: str, *, bases: tuple[Path, ...]) -> Path | None:
    for base in dict.fromkeys(bases):
        for text in (entry, entry.replace("\\", "/")):
            for form in (text, text.removeprefix("../")):  # Roboflow writes `../train/images`
                found = Path(os.path.normpath(base / form))
                with suppress(OSError):  # too long for a name
                    if found.exists():
                        return found
    return None


def _find_images(
    entries: list[str], *, split: SplitName, data: _DataYaml, notes: list[str]
) -> list[Path]:
    """Return the images of a split, in natural order."""
    found: list[Path] = []
    for entry in entries:
        place = _find(entry, bases=(data.root, data.path.parent))
        if place is None or not (place.is_dir() or place.suffix.lower() == ".txt"):
            problem = "does not exist" if place is None else "is another file"
            raise HaustraError(
                f"{data.path}: {split} is {entry!r}, which {problem} in {data.root}; expected a "
                "folder of images or a .txt list of images; correct it, or remove that line"
            )
        if place.is_dir():
            files = walk_files(place)
            other = [path for path in files if path.suffix.lower() not in (*IMAGE_SUFFIXES, ".txt")]
            notes += note_unread(place, Counter(path.suffix or "(no suffix)" for path in other))
            found += [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
            continue
        lines = read_text(place, what="a list of images").splitlines()
        bases = (place.parent, data.root, data.path.parent)
        listed = {line.strip(): _find(line.strip(), bases=bases) for line in lines if line.strip()}
        if lacking := [line for line, path in listed.items() if path is None]:
            raise HaustraError(
                f"{place} lists {len(lacking)} image(s) that do not exist: {name_some(lacking)}; "
                f"expected paths relative to {place.parent} or {data.root}"
            )
        found += [path for path in listed.values() if path is not None]
    images = sorted(set(found), key=lambda path: natural_key(path.as_posix()))
    if not images:
        raise HaustraError(
            f"{data.path}: {split} ({name_some(entries)}) holds no image (PNG, JPEG, BMP, TIFF or "
            "WebP); remove that line if there is none"
        )
    if len(images) < len(found):
        notes.append(f"{len(found) - len(images)} image(s) are named twice in {split}")
    return images


def _compare_splits(
    images: dict[SplitName, list[Path]],
    *,
    data: _DataYaml,
    problems: list[str],
    notes: dict[SplitName, list[str]],
) -> dict[SplitName, list[Path]]:
    """Return the splits without those that name the same images as one before them.

    Splits that share some images only are added to the problems.
    """
    own: dict[SplitName, list[Path]] = {}
    seen: dict[SplitName, set[Path]] = {}
    for split, paths in images.items():
        resolved = {path.resolve() for path in paths}
        same = next((other for other, theirs in seen.items() if theirs == resolved), None)
        if same is not None:
            notes[same].append(f"{same} and {split} name the same images: taken once")
            continue
        for other, theirs in seen.items():
            if shared := theirs & resolved:
                names = sorted(_name_in(path, root=data.root.resolve()) for path in shared)
                problems.append(
                    f"{data.path}: {other} and {split} share {len(shared)} image(s): "
                    f"{name_some(names)}; expected each image in one split"
                )
        own[split], seen[split] = paths, resolved
    return own


def _name_in(path: Path, *, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _label_path(image: Path) -> Path:
    """Return where the label file is: `labels` for the last folder `images` of the path."""
    for text in (image.as_posix(), (Path.cwd() / image).as_posix()):
        head, found, tail = f"/{text}".rpartition("/images/")
        if found:
            return Path(f"{head}/labels/{tail}"[1:]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _stem(path: Path) -> str:
    return as_text(path.with_suffix("").as_posix())


def _find_labels(
    expected: dict[Path, Path], *, data: _DataYaml, problems: list[str], notes: list[str]
) -> dict[str, Path]:
    """Return the label files in the folders of those that are expected, by path without suffix.

    Those of no image are a mistake, or a note where a split is a list, which may leave images out.
    """
    for path, count in Counter(expected.values()).items():
        if count > 1:
            problems.append(
                f"{count} images have the label file {path}, so they would be confused; expected "
                "one image for each"
            )
    folders = {path.parent for path in expected.values() if path.parent.is_dir()}
    files = {
        _stem(path): path
        for folder in sorted(folders)
        for path in walk_files(folder)
        if path.suffix.lower() == ".txt" and path.name != "classes.txt"
    }
    left = files.keys() - {_stem(path) for path in expected.values()}
    if left:
        names = sorted(_name_in(files[stem], root=data.root) for stem in left)
        text = f"{len(left)} YOLO label file(s) have no image in any split: {name_some(names)}"
        if any(entry.endswith(".txt") for entries in data.entries.values() for entry in entries):
            notes.append(text)
        else:
            problems.append(f"{data.path}: {text}; expected an image for each")
    return files


def _read(path: Path, size_wh: tuple[int, int], *, data: _DataYaml) -> Annotation:
    annotation = read_yolo(path, size_wh, names=data.names)
    for box in annotation.boxes:
        if data.names and box.class_name not in data.names.values():
            raise HaustraError(
                f"{path}: class {box.class_name} is not in the names of {data.path}; expected one "
                f"of {', '.join(f'{number} ({name})' for number, name in data.names.items())}"
            )
    return annotation
