"""Finding and linking shards that were made before, and the folders in which new ones are made.

A shard that any version under the same output root holds already, or that an interrupted ETL
finished, is linked instead of being made again.

Every ETL has its own staging folder, `<output root>/.staging/<random name>/`, which it locks as
long as it runs. So two ETLs never change the same file, and the folder of a killed ETL is
distinguished from that of a running one:

    .lock
    version/                    becomes v<version>/ by one rename
        shards/<name>.safetensors
        samples.parquet, manifest.json
    finished/<content>.json     one per finished shard: its manifest entry and its samples' sizes
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from haustra.captures.validation import CheckedFrame, CheckedLabel, FrameProblem, check_label
from haustra.core.ahead import map_ahead
from haustra.core.digests import is_sealed, seal_json
from haustra.core.errors import HaustraError
from haustra.core.files import link_or_copy, read_json, write_json_atomic
from haustra.core.locks import LockedError, locked_folder
from haustra.core.progress import track
from haustra.warehouse.format import MANIFEST_NAME, ShardEntry, Strict, find_damage, read_manifest
from haustra.warehouse.parquet import read_parquet
from haustra.warehouse.plan import Building, Outcome, ShardPlan, WarehousePlan, check_planned_frame

STAGING_NAME = ".staging"
_RECORD_SEAL = "record_sha256"
"""Field of a finished shard's record that holds the digest of all others."""


class FinishedShard(Strict):
    """A shard that was made before, with all that its samples' rows need beyond the labels."""

    entry: ShardEntry
    sizes_wh: dict[str, tuple[int, int]]
    """Width and height of each sample's source image in pixels by sample id, in row order."""


def _finished_in_version(manifest_path: Path, *, contents: set[str]) -> list[FinishedShard]:
    try:
        manifest = read_manifest(manifest_path)
    except HaustraError:  # damaged, of another format, or not a warehouse
        return []
    entries = {entry.file: entry for entry in manifest.shards if entry.content in contents}
    table_path = manifest_path.parent / manifest.table.file
    if not entries or find_damage(table_path, sha256=manifest.table.sha256):
        return []
    columns = ["shard", "sample_id", "source_width", "source_height"]
    sizes: dict[str, dict[str, tuple[int, int]]] = {file: {} for file in entries}
    for row in read_parquet(table_path.read_bytes(), columns=columns).to_pylist():
        if row["shard"] in sizes:
            sizes[row["shard"]][row["sample_id"]] = (row["source_width"], row["source_height"])
    return [
        FinishedShard(entry=entry, sizes_wh=sizes[file])
        for file, entry in entries.items()
        if len(sizes[file]) == entry.num_samples
    ]


def _finished_in_staging(folder: Path, *, contents: set[str]) -> list[FinishedShard]:
    finished = []
    for path in sorted(folder.glob("finished/*.json")):
        if path.stem not in contents:
            continue
        try:
            value = read_json(path, what="a shard's record")
            # The shard's own digest does not cover the sizes and the content stored beside it.
            if isinstance(value, dict) and is_sealed(value, field=_RECORD_SEAL):
                del value[_RECORD_SEAL]
                found = FinishedShard.model_validate(value)
                finished += [found] if found.entry.content == path.stem else []
        except (HaustraError, ValidationError):  # removed meanwhile, or not ours
            continue
    return finished


def _find_finished(
    output_root: Path, *, contents: set[str]
) -> Iterator[tuple[Path, list[FinishedShard]]]:
    """Yield each folder below `output_root` that has some of these shards, and which.

    The caller removes the shards that it takes from `contents`. Nothing is checked yet.
    """
    for manifest_path in sorted(output_root.glob(f"*/{MANIFEST_NAME}")):
        finished = _finished_in_version(manifest_path, contents=contents)
        if finished:
            yield manifest_path.parent, finished
    for folder in sorted(output_root.glob(f"{STAGING_NAME}/*")):
        finished = _finished_in_staging(folder, contents=contents)
        if finished:
            yield folder / "version", finished


def record_finished(staging: Path, *, finished: FinishedShard) -> None:
    """Record that a shard in `staging/version` is whole, so that another ETL can take it."""
    write_json_atomic(
        staging / "finished" / f"{finished.entry.content}.json",
        value=seal_json(finished.model_dump(mode="json"), field=_RECORD_SEAL),
    )


def _recheck_frames(
    shard: ShardPlan, *, plan: WarehousePlan, finished: FinishedShard
) -> list[Outcome] | None:
    """Check a finished shard's frames as an ETL does, without decoding the images it holds.

    Only the frames that it left out, whose images did not decode, are opened again, to name their
    problems. Returns None where the shard does not fit the plan.
    """
    sizes = finished.sizes_wh
    checked: list[CheckedLabel | FrameProblem] = [
        check_label(frame, size_wh=sizes[frame.sample_id])
        if frame.sample_id in sizes
        else check_planned_frame(frame, plan=plan)
        for frame in shard.frames
    ]
    if any(isinstance(item, CheckedFrame) for item in checked):
        return None
    stored = [item.frame.sample_id for item in checked if isinstance(item, CheckedLabel)]
    return checked if stored == list(sizes) else None


def _link_finished(entry: ShardEntry, *, folder: Path, target: Path) -> bool:
    """Link a finished shard of a version's folder to `target` and check its bytes there.

    A hard link shares its bytes with the old file: shards are never changed in place. Returns
    False, and leaves nothing, where the shard is gone or damaged.
    """
    try:
        link_or_copy(folder / entry.file, target=target)
        if not find_damage(target, sha256=entry.sha256, num_bytes=entry.num_bytes):
            return True
    except (FileNotFoundError, PermissionError):
        pass
    target.unlink(missing_ok=True)
    return False


def reuse_shards(building: Building, *, output_root: Path) -> dict[str, ShardEntry]:
    """Link the planned shards that were made before; return their entries by content."""
    plan, expected = building.plan, building.expected
    wanted = {shard.content: shard for shard in plan.shards}
    entries: dict[str, ShardEntry] = {}

    def take(finished: FinishedShard, *, folder: Path) -> list[Outcome] | None:
        entry, shard = finished.entry, wanted[finished.entry.content]
        if expected.get(shard.content, entry).sha256 != entry.sha256:
            return None
        checked = _recheck_frames(shard, plan=plan, finished=finished)
        target = building.staging / "version" / shard.file
        if checked is None or not _link_finished(entry, folder=folder, target=target):
            return None
        return checked

    contents, jobs = set(wanted), plan.config.jobs
    for folder, offered in _find_finished(output_root, contents=contents):
        taken = track(
            map_ahead(partial(take, folder=folder), offered, threads=jobs, num_ahead=2 * jobs),
            progress=building.progress,
            description="reuse",
            total=len(offered),
            unit="shards",
        )
        for finished, checked in zip(offered, taken, strict=True):
            if checked is None:
                continue
            shard = wanted[finished.entry.content]
            contents.discard(shard.content)
            # The same frames may have been in another split there.
            entries[shard.content] = finished.entry.model_copy(
                update={"file": shard.file, "split": shard.split}
            )
            building.outcomes.update({item.frame.sample_id: item for item in checked})
    return entries


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of ETLs that are not running any more."""
    for folder in list(root.iterdir()):
        with (
            suppress(LockedError, OSError),  # its ETL is running, or another one removes it too
            locked_folder(folder) as without_locks,
        ):
            if without_locks is None:
                shutil.rmtree(folder)


@contextmanager
def staging_folder(output_root: Path) -> Iterator[Path]:
    """Yield a locked staging folder with `version/shards/` and `finished/` in it.

    When the block succeeds, the folder is removed, with the folders of ETLs that are not running
    any more. After an error it stays for the next ETL if it holds a finished shard.
    """
    root = output_root / STAGING_NAME
    with ExitStack() as stack:
        stack.callback(_remove_empty, root)
        while True:
            folder = root / secrets.token_hex(8)
            with suppress(LockedError):  # another ETL takes the new folder for an abandoned one
                stack.enter_context(locked_folder(folder))
                break
        try:
            (folder / "version" / "shards").mkdir(parents=True)
            (folder / "finished").mkdir()
            yield folder
        except BaseException:
            if not list(folder.glob("finished/*.json")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        _remove_abandoned(root)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, or gone
        folder.rmdir()
