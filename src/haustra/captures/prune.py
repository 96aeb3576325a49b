"""Pruning: a filtered copy of a capture root without unreadable, duplicate and invalid frames.

Labels are copied byte for byte and images hard-linked; the source is never changed. Empty frames
are data (a detector that never saw one calls every fold a polyp), so they stay unless
`empty_ratio` says otherwise.
"""

import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from haustra.captures.negatives import check_empty_ratio, keeps_negative
from haustra.captures.reader import RUN_MANIFEST_NAME, Frame, Run, read_runs
from haustra.captures.validation import FrameProblem, check_frames
from haustra.core.errors import HaustraError
from haustra.core.files import building_folder, link_or_copy, read_json, write_json_atomic
from haustra.core.progress import Progress, SilentProgress, track

REPORT_NAME = "prune_report.json"


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of `haustra prune`."""

    captures: Path = Path("captures")
    """Capture root to read, or one run folder."""
    output_root: Path = Path("captures_filtered")
    """Where the filtered run folders go."""
    empty_ratio: float = 1.0
    """Share of the frames without a box to keep, 0 to 1, chosen by a digest of each one's name."""
    overwrite: bool = False
    """Replace filtered runs that exist already."""

    def __post_init__(self) -> None:
        check_empty_ratio(self.empty_ratio)


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What became of one run."""

    run_id: str
    kept: int
    """Frames that stayed; a run of which none stayed is not written."""
    dropped: dict[str, list[str]]
    """Reason to the list of what it hit."""


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
    manifest: dict[str, Any] = (
        read_json(manifest_path, what="a run manifest") if manifest_path.exists() else {}
    )
    # The folder's name may have been the run's only id; keep it with the frames.
    manifest |= {"run_id": run.run_id, "num_frames": len(kept)}
    write_json_atomic(folder / RUN_MANIFEST_NAME, value=manifest)


def _check_target(config: PruneConfig) -> None:
    source, target = config.captures.resolve(), config.output_root.resolve()
    if target == source or source.is_relative_to(target) or target.is_relative_to(source):
        raise HaustraError(
            f"--output-root {config.output_root} overlaps the capture root {config.captures}; "
            "expected a folder of its own, since pruning never changes its input"
        )
    if not target.exists():
        return
    if not config.overwrite:
        raise HaustraError(f"{config.output_root} exists already; remove it or pass --overwrite")
    if not (target / REPORT_NAME).is_file():
        raise HaustraError(
            f"{config.output_root} was not made by `haustra prune` (no {REPORT_NAME}); "
            "expected a new folder or an earlier result"
        )


def prune_captures(config: PruneConfig, *, progress: Progress | None = None) -> list[PruneResult]:
    """Write the filtered capture root, whole or not at all, with `prune_report.json` in it.

    Of frames with the same image bytes the first in name order stays.

    Raises:
        HaustraError: no run is found, the target exists, or nothing at all would be left.
    """
    progress = progress or SilentProgress()
    _check_target(config)
    runs = read_runs(config.captures)
    frames = [frame for run in runs for frame in run.frames]
    checked_frames = track(
        check_frames(frames),
        progress=progress,
        description="prune",
        total=len(frames),
        unit="images",
    )
    results = []
    first_with_digest: dict[str, str] = {}
    with building_folder(config.output_root, overwrite=config.overwrite) as building:
        for run in runs:
            kept: list[Frame] = []
            dropped: dict[str, list[str]] = {}
            if run.unlabelled:
                dropped["unlabelled"] = list(run.unlabelled)
            for checked in islice(checked_frames, len(run.frames)):
                sample_id = checked.frame.sample_id
                if isinstance(checked, FrameProblem):
                    dropped.setdefault(checked.kind, []).append(checked.reason)
                    continue
                first = first_with_digest.setdefault(checked.image_digest, sample_id)
                if first != sample_id:
                    reason = f"{sample_id} has the image of {first}"
                    dropped.setdefault("duplicate", []).append(reason)
                    continue
                is_empty = len(checked.boxes_px) == 0
                if is_empty and not keeps_negative(sample_id, ratio=config.empty_ratio):
                    dropped.setdefault("empty", []).append(sample_id)
                    continue
                kept.append(checked.frame)
            if kept:
                _write_pruned(run, kept=kept, folder=building / run.folder.name)
            results.append(PruneResult(run_id=run.run_id, kept=len(kept), dropped=dropped))
        if not any(result.kept for result in results):
            raise HaustraError(
                f"{config.captures}: no frame is left after pruning; look at the frames with "
                "`haustra overlay`, or raise --empty-ratio"
            )
        write_json_atomic(
            building / REPORT_NAME,
            value=[
                {"run_id": result.run_id, "kept": result.kept, "dropped": result.dropped}
                for result in results
            ],
        )
    return results
