"""Small seeded captures, the warehouses built from them, and copies of these to damage.

Two versions lie under one output root. `first` holds all captures; `second` those in which one run
has other pixels, so that it shares all other shards with `first` by hard links.
"""

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from haustra.captures.schema import RunManifest
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.digests import digest_bytes
from haustra.core.images import encode_png
from haustra.core.progress import SilentProgress
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import SPLIT_NAMES, SplitName

NUM_RUNS, FRAMES_PER_RUN = 12, 6
CHANGED_RUN = 3
SOURCE_SIZES_WH = ((120, 88), (96, 96), (80, 100))
STOPPED_AFTER_FRAMES = 40
"""Decoded frames after which the interrupted ETL of the scene stops: half of them."""

Files = dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The state before every fault; it is never changed."""

    captures: Path
    captures_changed: Path
    """The same with other pixels in one run, for the second version."""
    root: Path
    """Output root with both versions."""
    first: str
    """Name of the first version's folder."""
    second: str
    interrupted: Path
    """Output root that an ETL of the first version left when it was stopped half-way."""
    golden: Files
    """Both versions, by path below the output root."""
    observed: dict[SplitName, Any]
    """The first version as training and evaluation see it."""
    etl_s: float
    """Seconds that the first version took."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault's own copy of the scene."""

    scene: Scene
    root: Path
    """Output root, copied and not linked."""
    rng: random.Random

    @property
    def folder(self) -> Path:
        """Folder of the first version."""
        return self.root / self.scene.first

    @property
    def manifest(self) -> Path:
        """Manifest of the first version."""
        return self.folder / "manifest.json"

    @property
    def config(self) -> ETLConfig:
        """Settings of the ETL that builds the first version."""
        return etl_config(self.scene.captures, root=self.root)

    @property
    def second_config(self) -> ETLConfig:
        """Settings of the ETL that builds the second version."""
        return etl_config(self.scene.captures_changed, root=self.root)

    def read_manifest(self) -> dict[str, Any]:
        """Return the first version's manifest as JSON."""
        value: dict[str, Any] = json.loads(self.manifest.read_text())
        return value

    def shard_files(self) -> list[Path]:
        """Return the first version's shards."""
        return sorted((self.folder / "shards").iterdir())


def etl_config(captures: Path, *, root: Path) -> ETLConfig:
    """Return the settings of every ETL here."""
    return ETLConfig(
        captures=captures,
        output_root=root,
        target_size="96x64",
        split="0.5,0.25,0.25",
        max_boxes=4,
        samples_per_shard=3,
        jobs=2,
    )


def write_captures(root: Path, *, changed_run: int | None) -> None:
    """Write runs of noise with bright discs as polyps; `changed_run` gets pixels of its own."""
    for run in range(NUM_RUNS):
        rng = np.random.default_rng(run)
        width, height = SOURCE_SIZES_WH[run % len(SOURCE_SIZES_WH)]
        with writing_run(
            root / f"run_{run:03d}",
            manifest=RunManifest(
                run_id=f"r{run:03d}",
                source="simulated",
                group_id=f"colon_{run:03d}",
                dataset="faults",
                licence="CC0",
            ),
        ) as writer:
            for frame in range(FRAMES_PER_RUN + run % 2):
                image = rng.integers(60, 180, (height, width, 3), dtype=np.uint8)
                truths = []
                for _ in range(min(frame, 2)):
                    radius = int(rng.integers(8, 16))
                    x, y = (int(rng.integers(radius, side - radius)) for side in (width, height))
                    cv2.circle(image, (x, y), radius, (235, 170, 150), -1)
                    box = tuple(map(float, (x - radius, y - radius, x + radius, y + radius)))
                    truths.append(PolypTruth(bbox_px=box))  # type: ignore[arg-type]
                if run == changed_run:
                    image[:4] = 0
                writer.add_frame(
                    encode_png(image), suffix=".png", image_size_wh=(width, height), labels=truths
                )


class StopAfter(SilentProgress):
    """Stops an ETL after `num_frames` decoded frames, as Ctrl-C does."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames, self.is_decoding = num_frames, False

    def start(self, description: str, *, total: float) -> None:
        """Note whether decoding begins."""
        self.is_decoding = description == "etl"

    def update(self, completed: float, *, note: str = "") -> None:
        """Stop after the last frame."""
        if self.is_decoding and completed >= self.num_frames:
            raise KeyboardInterrupt


def read_files(folder: Path) -> Files:
    """Return every file below a folder, hidden ones too, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def observe(manifest: Path, *, split: SplitName) -> dict[str, Any]:
    """Return all that a training or an evaluation takes from one split, large things as digests.

    Raises:
        HaustraError: The warehouse is damaged.
    """
    opened = open_split(manifest, split=split)
    batch = opened.gather(np.arange(len(opened)))
    return {
        "images": [digest_bytes(image.tobytes()) for image in batch.images],
        "boxes": batch.boxes_xyxy.tolist(),
        "mask": batch.mask.tolist(),
        "sample ids": opened.sample_ids(),
        "groups": opened.group_ids(),
        "letterboxes": opened.letterboxes(),
        "number of boxes": opened.num_boxes,
        "manifest": opened.manifest.model_dump(mode="json"),
    }


def build_scene(folder: Path) -> Scene:
    """Build the captures and both versions, and stop an ETL half-way."""
    captures, changed = folder / "captures", folder / "captures_changed"
    write_captures(captures, changed_run=None)
    write_captures(changed, changed_run=CHANGED_RUN)
    root = folder / "golden"
    started = time.monotonic()
    first = build_warehouse(etl_config(captures, root=root))
    etl_s = time.monotonic() - started
    second = build_warehouse(etl_config(changed, root=root))
    interrupted = folder / "interrupted"
    try:
        build_warehouse(
            etl_config(captures, root=interrupted), progress=StopAfter(STOPPED_AFTER_FRAMES)
        )
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the ETL was not stopped")
    if any(not counts.boxes for counts in first.manifest.splits.values()):
        raise AssertionError("a split has no box")
    return Scene(
        captures=captures,
        captures_changed=changed,
        root=root,
        first=first.manifest_path.parent.name,
        second=second.manifest_path.parent.name,
        interrupted=interrupted,
        golden=read_files(root),
        observed={name: observe(first.manifest_path, split=name) for name in SPLIT_NAMES},
        etl_s=etl_s,
    )


@contextmanager
def copied_case(scene: Scene, *, folder: Path, versions: str, seed: int) -> Iterator[Case]:
    """Yield a case in an empty `folder`, which is removed at the end.

    Args:
        scene: Scene to copy.
        folder: Folder of the case.
        versions: Versions to copy: `none`, `first`, `both`, `linked` (both, sharing files) or
            `interrupted`.
        seed: Seed of the fault.
    """
    root = folder / "warehouse"
    names = {"first": (scene.first,), "both": (scene.first, scene.second)}
    root.mkdir(parents=True)
    if versions == "interrupted":
        shutil.copytree(scene.interrupted, root, dirs_exist_ok=True)
    else:
        for name in names.get("both" if versions == "linked" else versions, ()):
            shutil.copytree(scene.root / name, root / name)
    if versions == "linked":
        for path in (root / scene.second / "shards").iterdir():
            twin = root / scene.first / "shards" / path.name
            if twin.exists():
                path.unlink()
                path.hardlink_to(twin)
    try:
        yield Case(scene=scene, root=root, rng=random.Random(seed))
    finally:
        shutil.rmtree(folder)


def captures_copy(case: Case, *, name: str) -> ETLConfig:
    """Copy the captures into the case's folder, and return the ETL's settings for the copy."""
    captures = case.root.parent / name
    shutil.copytree(case.scene.captures, captures)
    return replace(case.config, captures=captures)
