"""Reading run folders: their frames and label files.

Reading never fails on one bad frame: the frame stores its problem, and the caller counts it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from haustra.captures.schema import FrameLabel, RunManifest, read_model
from haustra.core.errors import HaustraError
from haustra.core.files import resolve_inside
from haustra.core.images import natural_key
from haustra.core.paths import StrPath, to_path

RUN_MANIFEST_NAME = "run_manifest.json"
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One label file of a run; `label` or `problem` is set."""

    run_id: str
    name: str  # stem of the label file, such as `frame_00000`
    group_id: str
    label_path: Path
    label: FrameLabel | None = None
    image_path: Path | None = None
    problem: str | None = None
    """Reason why the frame cannot be used, found without opening its image."""

    @property
    def sample_id(self) -> str:
        """`run_id/name`: unique in a capture root and independent of its place."""
        return f"{self.run_id}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder: its manifest and its frames, as `in_frame_order` has them."""

    folder: Path
    run_id: str
    manifest: RunManifest
    frames: tuple[Frame, ...]
    unlabeled: tuple[str, ...]  # names of images that no label file mentions


def in_frame_order(
    items: Iterable[Item], *, name: Callable[[Item], str], frame_id: Callable[[Item], int | None]
) -> list[Item]:
    """Return items by frame id; one without an id stays behind the one before it by name.

    Names are in natural order: `x_9` comes before `x_10`.
    """
    placed: list[tuple[int, Item]] = []
    for item in sorted(items, key=lambda item: natural_key(name(item))):
        number = frame_id(item)
        placed.append(((placed[-1][0] if placed else -1) if number is None else number, item))
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def _read_frame(
    label_path: Path, *, resolved_folder: Path, run_id: str, run_group_id: str
) -> Frame:
    file = f"{run_id}/labels/{label_path.name}"
    frame = Frame(run_id=run_id, name=label_path.stem, group_id=run_group_id, label_path=label_path)
    try:
        label = read_model(label_path, model=FrameLabel, what="a frame label")
    except HaustraError as error:
        return replace(frame, problem=str(error).replace(str(label_path), file))
    image_path = resolve_inside(resolved_folder, relative=label.image)
    problem = None
    if image_path is None and label.image_present:
        problem = (
            f"{file}: image {label.image!r} points outside the run folder; expected a path inside "
            "it such as 'images/frame_00000.png'"
        )
    return replace(
        frame,
        group_id=label.group_id or run_group_id,
        label=label,
        image_path=image_path,
        problem=problem,
    )


def read_run(folder: StrPath) -> Run:
    """Read a run folder's manifest and label files; images are not opened."""
    folder = to_path(folder)
    if folder.name in ("", ".."):  # "." and ".." do not name a run
        folder = folder.resolve()
    labels_folder = folder / "labels"
    if not labels_folder.is_dir():
        raise HaustraError(
            f"{folder} is not a run folder: it has no labels/ folder; expected what "
            "`haustra datagen` or `haustra import` writes"
        )
    manifest, manifest_path = RunManifest(), folder / RUN_MANIFEST_NAME
    if manifest_path.exists():
        manifest = read_model(manifest_path, model=RunManifest, what="a run manifest")
    # CortenForge names runs by their folder only.
    run_id = manifest.run_id or folder.name
    resolved_folder = folder.resolve()
    read = (
        _read_frame(
            path,
            resolved_folder=resolved_folder,
            run_id=run_id,
            run_group_id=manifest.group_id or run_id,
        )
        for path in labels_folder.glob("[!.]*.json")
    )
    frames = tuple(
        in_frame_order(
            read,
            name=lambda frame: frame.name,
            frame_id=lambda frame: frame.label.frame_id if frame.label else None,
        )
    )
    images_folder = folder / "images"
    resolved_images = images_folder.resolve()
    known = {frame.image_path for frame in frames}
    unreadable = {frame.name for frame in frames if frame.label is None}
    unlabeled = tuple(
        path.name
        for path in sorted(images_folder.iterdir() if images_folder.is_dir() else ())
        if path.is_file()
        and not path.name.startswith(".")
        # Resolving every path is slow, and only a link resolves to another name.
        and resolved_images / path.name not in known
        and path.resolve() not in known
        and path.stem not in unreadable
    )
    return Run(folder=folder, run_id=run_id, manifest=manifest, frames=frames, unlabeled=unlabeled)


def list_run_folders(root: StrPath) -> list[Path]:
    """Return the run folders of a capture root, or the root itself if it is one, by name."""
    root = to_path(root)
    if not root.is_dir():
        raise HaustraError(
            f"{root} does not exist; expected a folder with run folders; make one with "
            "`haustra datagen` or `haustra import`"
        )
    if (root / "labels").is_dir():
        return [root]
    folders = [
        path
        for path in sorted(root.iterdir())
        if not path.name.startswith(".") and (path / "labels").is_dir()
    ]
    if not folders:
        raise HaustraError(
            f"{root} holds no run folder; make one with `haustra datagen` or `haustra import`"
        )
    return folders


def read_runs(root: StrPath) -> list[Run]:
    """Read every run of a capture root.

    Raises:
        HaustraError: There is no run, a manifest is malformed, or two runs share a run id.
    """
    runs = [read_run(folder) for folder in list_run_folders(root)]
    seen: dict[str, Path] = {}
    for run in runs:
        if run.run_id in seen:
            raise HaustraError(
                f"run id {run.run_id!r} is used by both {seen[run.run_id]} and {run.folder}; "
                "remove one or change the run_id in its run_manifest.json"
            )
        seen[run.run_id] = run.folder
    return runs


def slugify(text: str) -> str:
    """Return `text` as a run id: letters and digits of any script, in lower case, and hyphens."""
    kept = (
        character if unicodedata.category(character)[0] in "LMN" else "-"
        for character in unicodedata.normalize("NFC", text.lower())
    )
    return re.sub("-+", "-", "".join(kept)).strip("-") or "import"
