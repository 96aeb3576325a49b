"""Faults that damage a warehouse, an interrupted ETL or a running one."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fault_scene import STOPPED_AFTER_FRAMES, Case, captures_copy
from manifest_edits import EDITS, edit_manifest
from safetensors import SafetensorError

from damages import Damage, cut_short, flip_bit, zero_block
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.core.progress import SilentProgress
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

DISK_FULL = 3
"""Exit code of an ETL whose disk was full."""
MAX_OPERATIONS = 360
"""Number of file operations of an ETL of the scene; a repair has about half."""
MAX_FILE_BYTES = 56_000
"""Slightly more than the size of the largest shard of the scene."""
CHANGING_EVENTS = {
    "open",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "shutil.copyfile",
    "shutil.rmtree",
}
"""Python's audit events before which an ETL may be killed."""


@dataclass(frozen=True, kw_only=True)
class Injected:
    """A fault that was made."""

    text: str
    files: tuple[str, ...]
    """File names; an error must contain one of them."""
    error: str | None = None
    """Error of an ETL that ran during the fault."""
    leftovers: tuple[str, ...] = ()
    """Files below the output root that are unused and may stay."""
    builds_second: bool = False
    """True if the second version is built beside the damaged first one."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault."""

    inject: Callable[[Case], Injected]
    versions: str
    """Versions that `copied_case` copies."""
    weight: int = 1
    """Relative frequency."""


def _delete(path: Path, _: random.Random) -> str:
    path.unlink()
    return "deleted"


DAMAGES: tuple[Damage, ...] = (cut_short, flip_bit, zero_block, _delete)


def _hurt_shard(damage: Damage) -> Callable[[Case], Injected]:
    def inject(case: Case) -> Injected:
        path = case.rng.choice(case.shard_files())
        return Injected(text=f"{path.name}: {damage(path, case.rng)}", files=(path.name,))

    return inject


def _hurt_file(name: str, damage: Damage) -> Callable[[Case], Injected]:
    def inject(case: Case) -> Injected:
        return Injected(text=f"{name}: {damage(case.folder / name, case.rng)}", files=(name,))

    return inject


def _exchange(one: Path, other: Path) -> None:
    waiting = one.with_name("waiting")
    one.rename(waiting)
    other.rename(one)
    waiting.rename(other)


def _swap_shards(case: Case) -> Injected:
    one, other = case.rng.sample(case.shard_files(), 2)
    _exchange(one, other)
    return Injected(text=f"{one.name} and {other.name}: swapped", files=(one.name, other.name))


def _hurt_shared_shard(case: Case) -> Injected:
    shared = [path for path in case.shard_files() if path.stat().st_nlink == 2]
    path = case.rng.choice(shared)
    damage = case.rng.choice([cut_short, flip_bit, zero_block])
    return Injected(text=f"{path.name}: {damage(path, case.rng)}", files=(path.name,))


def _take_other_versions(name: str) -> Callable[[Case], Injected]:
    def inject(case: Case) -> Injected:
        shutil.copyfile(case.root / case.scene.second / name, case.folder / name)
        # With the manifest of another version it is that one's shards that are missing.
        return Injected(text=f"{name}: of another version", files=(name, ".safetensors"))

    return inject


def _edit_manifest(case: Case) -> Injected:
    name = case.rng.choice(list(EDITS))
    edit_manifest(case, name=name)
    return Injected(text=f"manifest.json: {name}", files=("manifest.json",))


def _claim_other_content(case: Case) -> Injected:
    """Make an entry of the first version claim the content of a shard of the second."""
    golden = json.loads(case.scene.golden[f"{case.scene.second}/manifest.json"])
    value = case.read_manifest()
    pairs = list(zip(value["shards"], golden["shards"], strict=True))
    one, other = case.rng.choice([pair for pair in pairs if pair[0] != pair[1]])
    one["content"] = other["content"]
    case.manifest.write_text(json.dumps(value, indent=2) + "\n")
    return Injected(
        text=f"manifest.json: {one['file']} claims the content of {other['file']}",
        files=("manifest.json",),
        builds_second=True,
    )


def _hurt_donor(case: Case) -> Injected:
    """Damage any file of the first version, before the second is built beside it."""
    path = case.rng.choice([*case.shard_files(), case.manifest, case.folder / "samples.parquet"])
    damage = case.rng.choice(DAMAGES)
    return Injected(
        text=f"{path.name}: {damage(path, case.rng)}", files=(path.name,), builds_second=True
    )


def _leave_temporary_files(case: Case) -> Injected:
    """Leave parts of files under temporary names, as killed writers do."""
    written = []
    for path in case.rng.sample([*case.shard_files(), case.manifest], 3):
        data = path.read_bytes()
        left = path.with_name(f".{path.name}.{2**22 + 1}.{case.rng.randbytes(4).hex()}")
        left.write_bytes(data[: case.rng.randrange(len(data))])
        written.append(left.relative_to(case.root).as_posix())
    staging = case.root / ".staging" / case.rng.randbytes(8).hex() / "version" / "shards"
    staging.mkdir(parents=True)
    part = staging / f".{case.rng.randbytes(8).hex()}.safetensors.{2**22 + 1}.00000000"
    part.write_bytes(case.rng.randbytes(1000))
    for path in case.rng.sample(
        [staging.parents[1] / ".lock", staging.parent / "manifest.json"], 1
    ):
        path.write_bytes(b"")
    written += [p.relative_to(case.root).as_posix() for p in staging.parents[1].rglob("*")]
    return Injected(text="temporary files left", files=(), leftovers=tuple(written))


def _staging(case: Case) -> Path:
    return next((case.root / ".staging").iterdir())


def _hurt_leftovers(case: Case) -> Injected:
    """Damage a shard or a record of an interrupted ETL, or swap two of a kind."""
    staging = _staging(case)
    kind = case.rng.choice(["version/shards", "finished"])
    files = sorted((staging / kind).iterdir())
    if case.rng.random() < 0.2:
        one, other = case.rng.sample(files, 2)
        _exchange(one, other)
        text = f"{one.name} and {other.name}: swapped"
    else:
        path = case.rng.choice(files)
        text = f"{path.name}: {case.rng.choice(DAMAGES)(path, case.rng)}"
    return Injected(text=f"interrupted ETL, {text}", files=("manifest.json",))


def _edit_record(case: Case) -> Injected:
    """Edit the record of a shard that an interrupted ETL finished: values that could be right."""
    one, other = case.rng.sample(sorted((_staging(case) / "finished").iterdir()), 2)
    value, second = json.loads(one.read_text()), json.loads(other.read_text())
    entry = value["entry"]
    what = case.rng.choice(["sizes", "num_samples", "split", "content", "file", "swapped frames"])
    if what == "sizes":
        sample = case.rng.choice(list(value["sizes_wh"]))
        value["sizes_wh"][sample][case.rng.randrange(2)] ^= 1
    elif what == "num_samples":
        entry["num_samples"] += 1
    elif what == "split":
        entry["split"] = "test" if entry["split"] == "train" else "train"
    elif what == "content":
        entry["content"] = second["entry"]["content"]
    elif what == "file":
        entry.update({name: second["entry"][name] for name in ("file", "num_bytes", "sha256")})
    else:
        value["sizes_wh"] = dict(reversed(value["sizes_wh"].items()))
    one.write_text(json.dumps(value, indent=2) + "\n")
    return Injected(text=f"interrupted ETL, {one.name}: {what} edited", files=("manifest.json",))


# Faults while an ETL runs.


def _begin(case: Case) -> tuple[str, tuple[str, ...]]:
    """Prepare an empty output root, or one with a version of which a file is damaged."""
    if case.rng.random() < 0.5:
        return "", ("manifest.json",)
    shutil.copytree(case.scene.root / case.scene.first, case.folder)
    path = case.rng.choice([*case.shard_files(), case.manifest, case.folder / "samples.parquet"])
    text = f"{path.name}: {case.rng.choice(DAMAGES)(path, case.rng)}; "
    return text, ("manifest.json", path.name)


def _kill_at_moment(case: Case) -> Injected:
    """Kill `haustra etl` with -9 a random time after it began to write, once or twice."""
    config = case.config
    begun, files = _begin(case)
    waits = []
    for _ in range(case.rng.choice([1, 2])):
        arguments = {
            "--captures": config.captures,
            "--output-root": config.output_root,
            "--target-size": config.target_size,
            "--split": config.split,
            "--max-boxes": config.max_boxes,
            "--samples-per-shard": config.samples_per_shard,
            "--jobs": 1,
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        process = subprocess.Popen(
            [sys.executable, "-m", "haustra", "etl", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        before = set(case.root.glob(".staging/*"))
        while process.poll() is None and set(case.root.glob(".staging/*")) <= before:
            time.sleep(0.001)
        wait_s = case.rng.uniform(0, case.scene.etl_s)
        time.sleep(wait_s)
        process.kill()
        _, errors = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"the ETL ended with {process.returncode}: {errors.decode()}")
        waits.append(f"{1000 * wait_s:.0f} ms" + (", too late" if not process.returncode else ""))
    return Injected(text=f"{begun}killed after {' and after '.join(waits)}", files=files)


def etl_dying(config: ETLConfig, *, operation: int) -> None:
    """Run an ETL that kills itself with -9 before its n-th operation on a file in its output."""
    left = [operation]
    root = str(config.output_root)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGING_EVENTS and arguments and root in os.fsdecode(str(arguments[0])):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(on_event)
    build_warehouse(config)


def etl_on_small_disk(config: ETLConfig, *, num_bytes: int) -> None:
    """Run an ETL that cannot write a file of more than `num_bytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    try:
        build_warehouse(config)
    except (OSError, SafetensorError):
        sys.exit(DISK_FULL)


def _run_apart(function: Callable[..., None], config: ETLConfig, **settings: int) -> int:
    process = multiprocessing.get_context("spawn").Process(
        target=function, args=(config,), kwargs=settings
    )
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL, DISK_FULL):
        raise AssertionError(f"the ETL ended with {process.exitcode}")
    return process.exitcode


def _kill_at_operation(case: Case) -> Injected:
    begun, files = _begin(case)
    operation = case.rng.randrange(MAX_OPERATIONS // 2 if begun else MAX_OPERATIONS)
    exit_code = _run_apart(etl_dying, case.config, operation=operation)
    text = f"{begun}killed before file operation {operation}"
    return Injected(text=text + ("" if exit_code else ", too late"), files=files)


def _fill_disk(case: Case) -> Injected:
    begun, files = _begin(case)
    num_bytes = case.rng.randrange(MAX_FILE_BYTES)
    exit_code = _run_apart(etl_on_small_disk, case.config, num_bytes=num_bytes)
    text = f"{begun}no file may pass {num_bytes} bytes"
    return Injected(text=text + ("" if exit_code else ": it was enough"), files=files)


class _ChangeAt(SilentProgress):
    """Calls `change` when `num_frames` are decoded."""

    def __init__(self, num_frames: int, change: Callable[[], None]) -> None:
        self.num_frames, self.change, self.is_decoding = num_frames, change, False

    def start(self, description: str, *, total: float) -> None:
        self.is_decoding = description == "etl"

    def update(self, completed: float, *, note: str = "") -> None:
        if self.is_decoding and completed == self.num_frames:
            self.change()


def _change_captures(case: Case) -> Injected:
    """Change an image or a label while the ETL decodes, and put the old one back at its end."""
    config = replace(captures_copy(case, name="captures"), jobs=1)
    folder = case.rng.choice(["images", "labels"])
    path = case.rng.choice(sorted(config.captures.glob(f"run_*/{folder}/*")))
    whole = path.read_bytes()
    damages: list[Damage] = [cut_short, flip_bit, _delete]
    if folder == "images":
        damages.append(_change_pixel)
    damage = case.rng.choice(damages)
    texts: list[str] = []
    message = None
    at = case.rng.randrange(1, STOPPED_AFTER_FRAMES)
    try:
        build_warehouse(
            config, progress=_ChangeAt(at, lambda: texts.append(damage(path, case.rng)))
        )
    except HaustraError as error:
        message = str(error)
    path.write_bytes(whole)
    name = f"r{path.parts[-3].removeprefix('run_')}/{path.stem}"
    return Injected(text=f"{name} {folder}: {texts[0]}", files=(name,), error=message)


def _change_pixel(path: Path, _: random.Random) -> str:
    image = read_image_rgb(path)
    image[0, 0, 0] ^= 1
    write_png(path, image_rgb=image)
    return "a pixel changed"


KINDS: dict[str, Kind] = {
    "shard cut short": Kind(inject=_hurt_shard(cut_short), versions="first"),
    "shard with a flipped bit": Kind(inject=_hurt_shard(flip_bit), versions="first"),
    "shard with a block of zeros": Kind(inject=_hurt_shard(zero_block), versions="first"),
    "shard deleted": Kind(inject=_hurt_shard(_delete), versions="first"),
    "two shards swapped": Kind(inject=_swap_shards, versions="first"),
    "shard that two versions share, damaged": Kind(inject=_hurt_shared_shard, versions="linked"),
    "table cut short": Kind(inject=_hurt_file("samples.parquet", cut_short), versions="first"),
    "table with a flipped bit": Kind(
        inject=_hurt_file("samples.parquet", flip_bit), versions="first"
    ),
    "table deleted": Kind(inject=_hurt_file("samples.parquet", _delete), versions="first"),
    "table of another version": Kind(
        inject=_take_other_versions("samples.parquet"), versions="both"
    ),
    "manifest cut short": Kind(inject=_hurt_file("manifest.json", cut_short), versions="first"),
    "manifest with a flipped bit": Kind(
        inject=_hurt_file("manifest.json", flip_bit), versions="first", weight=2
    ),
    "manifest deleted": Kind(inject=_hurt_file("manifest.json", _delete), versions="first"),
    "manifest of another version": Kind(
        inject=_take_other_versions("manifest.json"), versions="both"
    ),
    "manifest edited": Kind(inject=_edit_manifest, versions="both", weight=8),
    "manifest edited, next version built": Kind(inject=_claim_other_content, versions="first"),
    "anything damaged, next version built": Kind(inject=_hurt_donor, versions="first", weight=2),
    "half-written temporary files": Kind(inject=_leave_temporary_files, versions="first"),
    "interrupted ETL, leftovers damaged": Kind(
        inject=_hurt_leftovers, versions="interrupted", weight=3
    ),
    "interrupted ETL, records edited": Kind(inject=_edit_record, versions="interrupted", weight=2),
    "ETL killed at a random moment": Kind(inject=_kill_at_moment, versions="none", weight=3),
    "ETL killed before a file operation": Kind(
        inject=_kill_at_operation, versions="none", weight=3
    ),
    "ETL on a disk that is too small": Kind(inject=_fill_disk, versions="none"),
    "captures changed during the ETL": Kind(inject=_change_captures, versions="none", weight=2),
}


def draw_kinds(num_faults: int) -> list[str]:
    """Return the kind of each fault: all kinds in turn, each as many times as its weight."""
    rounds = max(kind.weight for kind in KINDS.values())
    turn = [name for done in range(rounds) for name, kind in KINDS.items() if kind.weight > done]
    return [turn[index % len(turn)] for index in range(num_faults)]
