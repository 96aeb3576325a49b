"""Trainings that are killed at random moments, or whose disk fails, lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from haustra.models.checkpoint import read_checkpoint
from haustra.models.tensor_file import weights_digest

HAUSTRA = (sys.executable, "-c", "from haustra.cli.main import main; main()")
NUM_KILLS = 20
SMALL_DISK_BYTES = 64_000_000
EPOCHS = {"tiny": 60, "big": 16}
"""Number of epochs; no training of them ends between two kills."""
FAULT_EPOCHS = 8

pytestmark = [pytest.mark.slow, pytest.mark.stress]


def haustra(*arguments: object) -> None:
    subprocess.run([*HAUSTRA, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    captures, warehouse = tmp_path / "captures", tmp_path / "warehouse"
    haustra("datagen", "--runs", 8, "--frames", 6, "--size", 64, "--output-root", captures)
    haustra("etl", "--captures", captures, "--target-size", 64, "--output-root", warehouse)
    return next(warehouse.glob("v*/manifest.json"))


def start(
    manifest: Path, checkpoint: Path, *, model: str, epochs: int, store: str = "mmap"
) -> subprocess.Popen[str]:
    """Begin a training that saves often."""
    command = [
        *HAUSTRA,
        *("train", "--manifest", str(manifest), "--model", model, "--epochs", str(epochs)),
        *("--batch-size", "4", "--val-every", "2", "--save-every", "0.5s", "--log-interval", "1"),
        *("--store", store, "--checkpoint-out", str(checkpoint)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def digest(checkpoint: Path) -> str:
    _, model = read_checkpoint(checkpoint)
    return weights_digest(model.state_dict())


def steps(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the number of each step as it is printed."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            yield int(line.split()[1].rstrip(":"))


@pytest.mark.parametrize("model", EPOCHS)
def test_a_training_killed_twenty_times_ends_with_the_same_weights(
    manifest: Path, tmp_path: Path, model: str
) -> None:
    rng = random.Random(0)
    epochs = EPOCHS[model]
    finish(start(manifest, tmp_path / "whole.bin", model=model, epochs=epochs))
    checkpoint = tmp_path / "killed.bin"
    for _ in range(NUM_KILLS):
        process = start(manifest, checkpoint, model=model, epochs=epochs)
        assert next(steps(process), None) is not None, "ended before all kills; take more epochs"
        time.sleep(rng.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(manifest, checkpoint, model=model, epochs=epochs))
    assert digest(checkpoint) == digest(tmp_path / "whole.bin")


def break_and_resume(
    manifest: Path, checkpoint: Path, *, fault: Callable[[], Callable[[], object]]
) -> None:
    """Break something once there is a checkpoint, repair it, and continue to the same weights."""
    whole = checkpoint.with_name("whole.bin")
    finish(start(manifest, whole, model="tiny", epochs=FAULT_EPOCHS))
    expected = digest(whole)
    whole.unlink()
    process = start(manifest, checkpoint, model="tiny", epochs=FAULT_EPOCHS, store="stream")
    numbers = steps(process)
    while not checkpoint.exists():
        next(numbers)
    repair = fault()
    _, errors = process.communicate()
    repair()
    assert (process.returncode, errors.count("\n")) == (2, 1), errors
    read_checkpoint(checkpoint)  # the last one is whole
    finish(start(manifest, checkpoint, model="tiny", epochs=FAULT_EPOCHS, store="stream"))
    assert digest(checkpoint) == expected


def test_a_training_whose_warehouse_vanishes_ends_with_one_line_and_continues(
    manifest: Path, tmp_path: Path
) -> None:
    warehouse = manifest.parent

    def lose_warehouse() -> Callable[[], object]:
        elsewhere = warehouse.rename(warehouse.with_name("elsewhere"))
        return lambda: elsewhere.rename(warehouse)

    (tmp_path / "lost").mkdir()
    break_and_resume(manifest, tmp_path / "lost" / "detector.bin", fault=lose_warehouse)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a separate file system on a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Callable[[], object]:
    """Fill a disk; return a function that empties it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    return filler.unlink


def make_read_only(folder: Path) -> Callable[[], object]:
    """Mount an empty read-only disk over a folder; return a function that unmounts it."""
    options = ("-t", "tmpfs", "-o", "ro", "tmpfs", str(folder))
    subprocess.run(["mount", *options], check=True)
    return lambda: subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("fault", [fill, make_read_only])
def test_a_training_whose_disk_fails_ends_with_one_line_and_continues(
    manifest: Path, tmp_path: Path, fault: Callable[[Path], Callable[[], object]]
) -> None:
    with mounted(tmp_path / "disk", "-o", f"size={SMALL_DISK_BYTES}") as disk:
        break_and_resume(manifest, disk / "detector.bin", fault=lambda: fault(disk))
