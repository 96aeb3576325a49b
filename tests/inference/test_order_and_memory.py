"""`infer` and `eval` take the frames of a run in one order, and long strips take little memory."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders import write_image, write_run
from haustra.evaluation.frames import open_captures
from haustra.inference.config import InferConfig
from haustra.inference.pictures import infer_pictures

MAX_KB = 400_000

MEASURE = """
import sys
from pathlib import Path
from haustra.inference.config import InferConfig
from haustra.inference.pictures import infer_pictures
infer_pictures(InferConfig(image=Path(sys.argv[1])))
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""
"""Prints the most memory in KiB. That of `getrusage` counts what the parent had at the fork."""


@pytest.mark.parametrize("ids", [[0, 1, 2], [2, 1, 0], [5, 11, 9]])
def test_infer_and_eval_go_by_the_frame_ids(tmp_path: Path, ids: list[int]) -> None:
    run = write_run(tmp_path / "run_a", [], [], [])
    for path, frame_id in zip(sorted((run / "labels").iterdir()), ids, strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frame_id": frame_id}))
    shown = [picture.image.stem for picture in infer_pictures(InferConfig(image=run)).pictures]
    source = open_captures(tmp_path, target_size_wh=(64, 64), resize_mode="letterbox")
    measured = [frame.sample_id.rpartition("/")[2] for frame, _ in source.read()]
    assert shown == measured == [f"frame_{n:05d}" for n in np.argsort(ids)]


def test_images_without_labels_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("x_10", "x_9", "x_1"):
        write_image(tmp_path / f"in/{name}.png")
    found = infer_pictures(InferConfig(image=tmp_path / "in")).pictures
    assert [picture.image.stem for picture in found] == ["x_1", "x_9", "x_10"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("shape", [(4, 20000, 3), (20000, 4, 3), (1, 30000, 3)])
def test_a_long_strip_takes_little_memory(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros(shape, np.uint8))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "strip.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < MAX_KB
