"""What is left of trainings that are killed at random moments, or whose disk goes wrong.

Each model is trained once to its end, and once more with `--num-kills` times SIGKILL at a seeded
random moment after a new step; the weights must be the same bytes. Then the disk is filled, made
read-only (both on a file system of their own, which takes root), and the warehouse is taken away in
the middle of a training: each must end with one line and exit code 2, and the last checkpoint must
load and be continued to the same bytes.

    python benchmarks/interruptions.py --num-kills 20
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from haustra.models.checkpoint import read_checkpoint, weights_digest

HAUSTRA = (sys.executable, "-c", "from haustra.cli.main import main; main()")
TMPFS_BYTES = 64_000_000
EPOCHS = {"tiny": 60, "big": 16}
"""Enough that no training ends between two kills."""
FAULT_EPOCHS = 8


def haustra(*arguments: object) -> None:
    """Run a command to its end."""
    subprocess.run([*HAUSTRA, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_warehouse(folder: Path, *, size: int) -> Path:
    """Simulate a few captures and build their warehouse."""
    captures = folder / "captures"
    haustra("datagen", "--runs", 8, "--frames", 6, "--size", size, "--output-root", captures)
    haustra(
        *("etl", "--captures", captures, "--target-size", size),
        *("--output-root", folder / "warehouse"),
    )
    return next((folder / "warehouse").glob("v*/manifest.json"))


def start(
    manifest: Path, checkpoint: Path, *, model: str, store: str = "mmap", epochs: int | None = None
) -> subprocess.Popen[str]:
    """Begin a training that saves often."""
    command = [
        *HAUSTRA,
        *("train", "--manifest", str(manifest), "--model", model),
        *("--epochs", str(epochs or EPOCHS[model])),
        *("--batch-size", "4", "--val-every", "2", "--save-every", "0.5s", "--log-interval", "1"),
        *("--store", store, "--checkpoint-out", str(checkpoint)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a training that should end well."""
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"a training that should end did not: {said}")


def digest(checkpoint: Path) -> str:
    """Return the digest of a checkpoint's weights."""
    _, model = read_checkpoint(checkpoint)
    return weights_digest(model.state_dict())


def steps(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the number of each step as it is told."""
    if process.stdout is None:
        raise AssertionError("the output is a pipe")
    for line in process.stdout:
        if line.startswith("step "):
            yield int(line.split()[1].rstrip(":"))


def kill_and_resume(manifest: Path, folder: Path, *, model: str, num_kills: int, seed: int) -> bool:
    """Print a row per kill; return whether the weights are those of the whole training."""
    rng = random.Random(seed)
    finish(start(manifest, folder / "whole.bin", model=model))
    wanted = digest(folder / "whole.bin")
    checkpoint = folder / "killed.bin"
    print(f"\n{model}det, not interrupted: weights {wanted[:16]}")
    print("kill  first step  step at the kill  states left")
    killed = 0
    while killed < num_kills:
        process = start(manifest, checkpoint, model=model)
        told = steps(process)
        first = next(told, None)
        if first is None:
            _, said = process.communicate()
            raise SystemExit(f"ended before {num_kills} kills, take more epochs; {said}")
        time.sleep(rng.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        last = max([first, *told])
        process.communicate()
        killed += 1
        left = sorted(path.stem for path in (folder / "killed.run" / "states").glob("state_*"))
        print(f"{killed:4}  {first:10}  {last:16}  {', '.join(left) or 'none yet'}", flush=True)
    finish(start(manifest, checkpoint, model=model))
    found = digest(checkpoint)
    print(f"{model}det, killed {num_kills} times: weights {found[:16]}")
    return found == wanted


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk with little room."""
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder))
    subprocess.run(["mount", *options], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Callable[[], object]:
    """Leave no room on a disk; return what gives it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    return filler.unlink


def make_read_only(folder: Path) -> Callable[[], object]:
    """Mount an empty disk over it that cannot be written; return what takes it away again."""
    options = ("-t", "tmpfs", "-o", "ro", "tmpfs", str(folder))
    subprocess.run(["mount", *options], check=True)
    return lambda: subprocess.run(["umount", str(folder)], check=True)


def break_and_resume(
    name: str, manifest: Path, checkpoint: Path, *, fault: Callable[[], Callable[[], object]]
) -> bool:
    """Break something once there is a checkpoint; print how it ended and what is left."""
    whole = checkpoint.with_name("whole.bin")
    finish(start(manifest, whole, model="tiny", epochs=FAULT_EPOCHS))
    wanted = digest(whole)
    whole.unlink()
    process = start(manifest, checkpoint, model="tiny", store="stream", epochs=FAULT_EPOCHS)
    told = steps(process)
    while not checkpoint.exists():
        next(told)
    repair = fault()
    _, said = process.communicate()
    repair()
    read_checkpoint(checkpoint)
    finish(start(manifest, checkpoint, model="tiny", store="stream", epochs=FAULT_EPOCHS))
    same = digest(checkpoint) == wanted
    is_clear = process.returncode == 2 and said.count("\n") == 1
    print(f"\n{name}: exit code {process.returncode}\n  {said.strip()}")
    print(
        f"  the last checkpoint loads; continued, the weights are {'the same' if same else 'OTHER'}"
    )
    return same and is_clear


def main() -> None:
    """Kill, break, and say what held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    held = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_warehouse(folder, size=64)
        for model in ("tiny", "big") if options.num_kills else ():
            (folder / model).mkdir()
            held.append(
                kill_and_resume(
                    manifest,
                    folder / model,
                    model=model,
                    num_kills=options.num_kills,
                    seed=options.seed,
                )
            )
        warehouse = manifest.parent
        checkpoint = folder / "lost" / "detector.bin"

        def lose_warehouse() -> Callable[[], object]:
            elsewhere = warehouse.rename(warehouse.with_name("elsewhere"))
            return lambda: elsewhere.rename(warehouse)

        held.append(break_and_resume("lost warehouse", manifest, checkpoint, fault=lose_warehouse))
        if os.geteuid():
            print("\nfull disk, read-only folder: skipped, since mounting a small disk takes root")
        else:
            for title, fault in (("full disk", fill), ("read-only folder", make_read_only)):
                with small_disk(folder / title.replace(" ", "_")) as disk:
                    held.append(
                        break_and_resume(
                            title,
                            manifest,
                            disk / "detector.bin",
                            fault=lambda fault=fault, disk=disk: fault(disk),  # type: ignore[misc]
                        )
                    )
    print(f"\n{'every one holds' if all(held) else 'NOT every one holds'}")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
