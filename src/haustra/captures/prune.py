"""Pruning: a filtered copy of a capture root without unreadable, duplicate and invalid frames.

Labels are copied byte for byte and images hard-linked; the source is never changed. Empty frames
stay unless `empty_ratio` drops some: a detector trained without them calls every fold a polyp.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from haustra.captures.reader import RUN_MANIFEST_NAME, Frame, Run, read_runs
from haustra.captures.validation import CheckedFrame, FrameProblem, check_frames, keeps_negative
from haustra.core.checked import CheckedSettings, ReplacedFolder, Share
from haustra.core.errors import HaustraError, option
from haustra.core.files import building_folder, link_or_copy, read_json, write_json_atomic
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track

REPORT_NAME = "prune_report.json"


@dataclass(frozen=True, kw_only=True)
class PruneConfig(CheckedSettings):
    """Settings of `haustra prune`."""

    captures: Path = Path("captures")
    """Capture root to read, or one run folder."""
    output_root: ReplacedFolder = Path("captures_filtered")
    """Folder of the filtered run folders."""
    empty_ratio: Share = 1.0
    """Share of the frames without a box to keep, 0 to 1, chosen by a digest of each one's name."""
    overwrite: bool = False
    """Replace an earlier result of prune."""


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """The kept and dropped frames of one run."""

    run_id: str
    kept: int  # number of frames that stayed; a run without any is not written
    dropped: dict[str, list[str]]  # dropped frames or images by reason
    conflicts: list[str]  # frames whose image another frame has with other boxes


def _write_pruned(run: Run, *, kept: list[Frame], folder: Path) -> None:
    for name in ("images", "labels", "overlays"):
        (folder / name).mkdir(parents=True)
    for frame in kept:
        if frame.label is None or frame.image_path is None:
            raise AssertionError("a checked frame has a label and an image path")
        target = folder / frame.label.image
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(frame.image_path, target=target)
        # Labels are edited in place by hand, so they are never linked to their source.
        shutil.copyfile(frame.label_path, folder / "labels" / frame.label_path.name)
    manifest_path = run.folder / RUN_MANIFEST_NAME
    manifest = read_json(manifest_path, what="a run manifest") if manifest_path.exists() else {}
    # The folder's name may have been the run's only id, so it is stored with the frames.
    changes = {"run_id": run.run_id, "num_frames": len(kept)}
    write_json_atomic(folder / RUN_MANIFEST_NAME, value=manifest | changes)


def _check_target(config: PruneConfig) -> None:
    target = config.output_root
    if not target.exists():
        return
    if not config.overwrite:
        raise HaustraError(
            f"{config.output_root} exists already; remove it or pass {option('overwrite', True)}"
        )
    if not (target / REPORT_NAME).is_file():
        raise HaustraError(
            f"{config.output_root} was not made by `haustra prune` (no {REPORT_NAME}); "
            "expected a new folder or an earlier result"
        )


class _Seen(NamedTuple):
    """A usable frame without its pixels."""

    sample_id: str
    image_digest: str
    boxes: tuple[tuple[float, ...], ...]
    is_negative: bool


def _without_pixels(checked: CheckedFrame | FrameProblem) -> _Seen | FrameProblem:
    if isinstance(checked, FrameProblem):
        return checked
    boxes = tuple(sorted(map(tuple, checked.boxes_px.tolist())))
    is_negative = not boxes and not checked.box_problems
    return _Seen(checked.frame.sample_id, checked.image_digest, boxes, is_negative)


def _compare_copies(
    checked: Iterable[_Seen | FrameProblem],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the duplicates and the conflicts among frames with the same image, by sample id."""
    copies_of = defaultdict(list)
    for item in checked:
        if isinstance(item, _Seen):
            copies_of[item.image_digest].append(item)
    duplicates, conflicts = {}, {}
    for copies in copies_of.values():
        kept: dict[tuple[tuple[float, ...], ...], str] = {}
        for item in sorted(copies, key=lambda item: not item.boxes):  # labeled ones first
            first = next(iter(kept.values()), "")
            if first and item.boxes not in kept:
                rest = "other boxes; both stay" if item.boxes else "no box"
                conflicts[item.sample_id] = f"{item.sample_id} has the image of {first} with {rest}"
            if first and (item.boxes in kept or not item.boxes):
                first = kept.get(item.boxes, first)
                duplicates[item.sample_id] = f"{item.sample_id} has the image of {first}"
            else:
                kept[item.boxes] = item.sample_id
    return duplicates, conflicts


def prune_captures(config: PruneConfig, *, progress: Progress | None = None) -> list[PruneResult]:
    """Write the filtered capture root, whole or not at all, with `prune_report.json` in it.

    Of frames with the same image bytes, the first in name order with boxes stays. Another one with
    other boxes stays too, and is named as a conflict.

    Raises:
        HaustraError: No run is found, the target exists, or no frame would be left.
    """
    check_outputs(config)
    _check_target(config)
    runs = read_runs(config.captures)
    frames = [frame for run in runs for frame in run.frames]
    checked = [
        _without_pixels(item)
        for item in track(
            check_frames(frames),
            progress=progress or SilentProgress(),
            description="prune",
            total=len(frames),
            unit="images",
        )
    ]
    duplicates, conflicts = _compare_copies(checked)
    results, remaining = [], iter(checked)
    with building_folder(config.output_root, overwrite=config.overwrite) as building:
        for run in runs:
            kept: list[Frame] = []
            dropped: dict[str, list[str]] = {}
            if run.unlabeled:
                dropped["unlabelled"] = list(run.unlabeled)
            for frame, item in zip(run.frames, remaining, strict=False):
                name = frame.sample_id
                if isinstance(item, FrameProblem):
                    dropped.setdefault(item.kind, []).append(item.reason)
                elif name in duplicates:
                    dropped.setdefault("duplicate", []).append(duplicates[name])
                elif item.is_negative and not keeps_negative(name, ratio=config.empty_ratio):
                    dropped.setdefault("empty", []).append(name)
                else:
                    kept.append(frame)
            if kept:
                _write_pruned(run, kept=kept, folder=building / run.folder.name)
            found = [conflicts[f.sample_id] for f in run.frames if f.sample_id in conflicts]
            results.append(
                PruneResult(run_id=run.run_id, kept=len(kept), dropped=dropped, conflicts=found)
            )
        if not any(result.kept for result in results):
            raise HaustraError(
                f"{config.captures}: no frame is left after pruning; look at the frames with "
                f"`haustra overlay`, or raise {option('empty_ratio')}"
            )
        write_json_atomic(building / REPORT_NAME, value=[asdict(result) for result in results])
    return results
