"""Small seeded images and run folders that the tests of several packages share."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]


def noise_image(seed: int = 0, *, size_wh: tuple[int, int] = (32, 24)) -> NDArray[np.uint8]:
    width, height = size_wh
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded_image(
    seed: int = 0, *, size_wh: tuple[int, int] = (32, 24), suffix: str = ".png"
) -> bytes:
    done, data = cv2.imencode(suffix, noise_image(seed, size_wh=size_wh))
    assert done
    return data.tobytes()


def write_image(path: Path, *, seed: int = 0, size_wh: tuple[int, int] = (32, 24)) -> bytes:
    data = encoded_image(seed, size_wh=size_wh, suffix=path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def label_json(*boxes_px: Any, **changes: Any) -> dict[str, Any]:
    """A label file in our spelling; `changes` replace or add fields."""
    return {
        "schema_version": 1,
        "frame_id": 0,
        "image": "images/frame_00000.png",
        "labels": [{"bbox_px": box} for box in boxes_px],
        **changes,
    }


def write_frame(
    run: Path,
    index: int = 0,
    *,
    boxes_px: Sequence[Any] = (),
    seed: int | None = None,
    size_wh: tuple[int, int] = (32, 24),
    **changes: Any,
) -> None:
    """Write one image and its label; without a seed every frame gets an image of its own."""
    name = f"frame_{index:05d}"
    own_seed = zlib.crc32(f"{run.name}/{name}".encode())
    write_image(
        run / f"images/{name}.png", seed=own_seed if seed is None else seed, size_wh=size_wh
    )
    fields = {"frame_id": index, "image": f"images/{name}.png", **changes}
    write_json(run / f"labels/{name}.json", label_json(*boxes_px, **fields))


def write_run(folder: Path, *boxes_per_frame: Sequence[Any], **manifest: Any) -> Path:
    """Write a run folder with a frame per argument, which lists the frame's boxes in pixels."""
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    for index, boxes_px in enumerate(boxes_per_frame):
        write_frame(folder, index, boxes_px=boxes_px)
    write_json(folder / "run_manifest.json", {"schema_version": 1, **manifest})
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
