"""Commands on files whose names are not UTF-8, or have no form in the terminal's encoding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders import write_image
from viewing import write_video

ENVIRONMENTS = {
    "utf-8": {"PYTHONUTF8": "1"},
    "ascii terminal": {"PYTHONIOENCODING": "ascii"},
    "ascii everywhere": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
Done = subprocess.CompletedProcess[bytes]
ODD = os.fsdecode(b"caf\xe9 \xc3\xa9")
"""Latin-1 and UTF-8 in one name."""

QUICK = """
import yolo images labels --output-root ODD_cap --run-id a
overlay ODD_cap/run_a --json
infer --image images --output-root ODD_boxed
infer --image images --output-root ODD_boxed --json
etl --captures ODD_cap --output-root ODD_wh --target-size 64 --split 0.4,0.3,0.3
info WAREHOUSE
warehouse export WAREHOUSE --out ODD.parquet
"""
SLOW = """
datagen --runs 1 --frames 2 --size 64 --output-root ODD_sim
import masks images masks --output-root ODD_cap2
convert ODD_cap --to coco --output-root ODD_coco
import coco ODD_coco/images ODD_coco/annotations.json --output-root ODD_cap3
convert ODD_cap --to voc --output-root ODD_voc
convert ODD_cap --to cvat --output-root ODD_cvat
convert ODD_cap --to label-studio --output-root ODD_ls
prune --captures ODD_cap --output-root ODD_pruned
warehouse verify WAREHOUSE
warehouse explain WAREHOUSE a/frame_00000 --json
warehouse audit WAREHOUSE
warehouse diff WAREHOUSE WAREHOUSE
warehouse repair WAREHOUSE --captures ODD_cap
train --manifest WAREHOUSE --epochs 1 --batch-size 2 --checkpoint-out ODD.bin --status-file ODD.json
info ODD.bin --json
eval --manifest WAREHOUSE --detector-weights ODD.bin --predictions-out ODD_p.json --report ODD_r
eval --captures ODD_cap --detector-weights ODD.bin --report ODD_report2 --json
eval --manifest WAREHOUSE --compare ODD.bin ODD.bin --metrics-out ODD_m.json
export --detector-weights ODD.bin
info ODD.onnx
infer --image images/ODD1.png --detector-weights ODD.onnx
infer --video ODD.mp4 --detector-weights ODD.bin
view --headless --source ODD.mp4 --output-root ODD_rec
view --headless --source ODD_cap/run_a --output-root ODD_rec --detector-weights ODD.onnx --json
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / ODD
    for number in range(8):
        name = f"{ODD}{number}"
        write_image(folder / f"images/{name}.png", seed=number, size_wh=(64, 64))
        (folder / "labels").mkdir(exist_ok=True)
        (folder / f"labels/{name}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 20:40] = 255
        (folder / "masks").mkdir(exist_ok=True)
        (folder / f"masks/{name}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    write_video(tmp_path / "a.mp4", num_frames=5)
    shutil.move(tmp_path / "a.mp4", folder / f"{ODD}.mp4")
    return folder


def run(words: list[bytes], *, folder: Path, environment: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "haustra", *words],
        cwd=folder,
        env=os.environ | ENVIRONMENTS[environment],
        capture_output=True,
        check=False,
    )


DRIVER = """
import sys
from pathlib import Path
from haustra.cli.main import main

for line in filter(None, sys.argv[1].splitlines()):
    manifest = str(next(Path().glob("*_wh/v*"), Path()))
    words = [word.replace("WAREHOUSE", chr(0)) for word in line.split(" ")]
    words = [word.replace("ODD", sys.argv[2]).replace(chr(0), manifest) for word in words]
    print(chr(30), end="", flush=True)
    try:
        main(words)
    except SystemExit as error:
        if error.code:
            print(line, file=sys.stderr)
            raise
"""
"""Runs commands one after the other in one process, since loading torch takes seconds."""


def run_all(commands: str, *, folder: Path, environment: str) -> None:
    """Run each command; its output fits the terminal's encoding, and is JSON if that was asked."""
    lines = list(filter(None, commands.splitlines()))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "\n".join(lines), os.fsencode(ODD)],
        cwd=folder,
        env=os.environ | ENVIRONMENTS[environment],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    _, *outputs = done.stdout.decode("utf-8" if environment == "utf-8" else "ascii").split("\x1e")
    for line, output in zip(lines, outputs, strict=True):
        if "--json" in line:
            json.loads(output)


def test_names_of_other_encodings_are_taken(place: Path) -> None:
    run_all(QUICK, folder=place, environment="ascii everywhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_command_takes_names_of_other_encodings(name: str, place: Path) -> None:
    run_all(QUICK + SLOW, folder=place, environment=name)


def test_an_error_names_such_a_file(place: Path) -> None:
    words = [b"infer", b"--image", os.fsencode(ODD)]
    done = run(words, folder=place, environment="ascii everywhere")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert rb"caf\udce9" in done.stderr


def test_tensorboard_which_takes_no_such_name_is_refused_before_any_work(place: Path) -> None:
    words = [b"train", b"--manifest", b"x", b"--tensorboard", os.fsencode(ODD)]
    done = run(words, folder=place, environment="utf-8")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"expected a printable name in UTF-8" in done.stderr
