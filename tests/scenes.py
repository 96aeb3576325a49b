"""Small seeded captures: pink noise with bright discs as polyps, learnt in seconds."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import write_json
from haustra.captures import validation
from haustra.captures.schema import RunManifest
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.images import decode_image_rgb, encode_png
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig


def draw_scene(
    rng: np.random.Generator, *, size_wh: tuple[int, int], num_polyps: int
) -> tuple[NDArray[np.uint8], list[PolypTruth]]:
    """Return an image uint8 [H,W,3] and the truth of its discs."""
    width, height = size_wh
    image = rng.normal((150, 80, 80), 12, (height, width, 3)).clip(0, 255).astype(np.uint8)
    truths = []
    for index in range(num_polyps):
        radius = int(rng.integers(min(size_wh) // 10, min(size_wh) // 5))
        x = int(rng.integers(radius, width - radius))
        y = int(rng.integers(radius, height - radius))
        cv2.circle(image, (x, y), radius, (235, 170, 150), -1)
        box = (float(x - radius), float(y - radius), float(x + radius + 1), float(y + radius + 1))
        truths.append(PolypTruth(bbox_px=box, lesion_id=f"disc_{index}"))
    return image, truths


def write_captures(
    root: Path,
    *,
    num_runs: int = 6,
    frames_per_run: int = 4,
    size_wh: tuple[int, int] = (80, 64),
    max_polyps: int = 2,
    seed: int = 0,
) -> list[Path]:
    """Write run folders of discs; every run has its own group and at least one empty frame."""
    folders = []
    for run in range(num_runs):
        rng = np.random.default_rng([seed, run])
        folder = root / f"run_{run:03d}"
        with writing_run(
            folder,
            manifest=RunManifest(
                run_id=f"r{run:03d}", source="simulated", group_id=f"colon_{run:03d}"
            ),
        ) as writer:
            for frame in range(frames_per_run):
                num_polyps = 0 if frame == 0 else int(rng.integers(1, max_polyps + 1))
                image, truths = draw_scene(rng, size_wh=size_wh, num_polyps=num_polyps)
                writer.add_frame(
                    encode_png(image), suffix=".png", image_size_wh=size_wh, labels=truths
                )
        folders.append(folder)
    return folders


def write_warehouse(
    folder: Path,
    *,
    num_runs: int = 8,
    frames_per_run: int = 4,
    max_boxes: int = 4,
    max_polyps: int = 2,
    split: str = "0.5,0.25,0.25",
) -> Path:
    """Write captures of discs and their 64x64 warehouse; return the manifest's path."""
    write_captures(
        folder / "captures",
        num_runs=num_runs,
        frames_per_run=frames_per_run,
        max_polyps=max_polyps,
    )
    config = ETLConfig(
        captures=folder / "captures",
        output_root=folder / "warehouse",
        target_size="64",
        max_boxes=max_boxes,
        split=split,
        samples_per_shard=8,
    )
    return build_warehouse(config).manifest_path


def build_beside(captures: Path, **settings: Any) -> ETLResult:
    """Build a warehouse of 64x64 images in the folder `warehouse` beside the captures."""
    root = captures.parent / "warehouse"
    return build_warehouse(
        ETLConfig(captures=captures, output_root=root, target_size="64", **settings)
    )


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of every frame's image that is decoded from now on."""
    names: list[str] = []

    def counted(data: bytes, *, name: str) -> NDArray[np.uint8]:
        names.append(name)
        return decode_image_rgb(data, name=name)

    monkeypatch.setattr(validation, "decode_image_rgb", counted)
    return names


def smooth_picture(seed: int, *, size_wh: tuple[int, int] = (80, 64)) -> NDArray[np.uint8]:
    """A picture of soft blobs, as a colon's light and folds are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def write_pictures(root: Path, pictures: dict[str, list[NDArray[np.uint8]]]) -> Path:
    """Write a run per group and build the warehouse, whose splits the groups' names begin with."""
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for group, images in pictures.items():
        folder = root / "captures" / group
        (folder / "images").mkdir(parents=True)
        for index, image in enumerate(images):
            name = f"frame_{index:05d}"
            (folder / f"images/{name}.png").write_bytes(encode_png(image))
            label = {"schema_version": 1, "frame_id": index, "image": f"images/{name}.png"}
            write_json(folder / f"labels/{name}.json", label | {"labels": []})
        write_json(folder / "run_manifest.json", {"schema_version": 1, "run_id": group})
        splits[group.split("_")[0]].append(group)
    write_json(root / "splits.json", splits)
    return build_warehouse(
        ETLConfig(
            captures=root / "captures",
            output_root=root / "warehouse",
            target_size="64",
            split_file=root / "splits.json",
        )
    ).manifest_path
