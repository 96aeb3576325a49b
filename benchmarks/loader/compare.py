"""The loader against others that deliver the same samples, in images/s and in turns.

    python benchmarks/loader_peers.py                        # simulated frames
    python benchmarks/loader_peers.py --data kvasir-seg      # a folder with images/ and masks/

Every loader delivers shuffled batches of 16 images uint8 [16,H,W,3] (or [16,3,H,W]) and their boxes
to the main process, from a warm page cache:

- haustra: `iterate_batches` over a warehouse with its defaults;
- PyTorch's DataLoader, which decodes the source images and letterboxes them, or decodes JPEG files
  of the stored size;
- litdata and MosaicML Streaming, each from raw pixels and from JPEG.

The others have two persistent worker processes each, and from raw pixels also none, as haustra has
(a copy is faster than its way through another process); `loader_peer_script.py` tells the rest of
their settings. They live in an environment of their own, which is made in the work folder unless
`--peer-python` names one, and take some gigabytes of disk with the tensors. In each round every
peer's epoch follows one of haustra's; the median of the rounds is printed with lowest and highest.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import cv2
import numpy as np

from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.core.allocator import keep_freed_memory
from haustra.simulator.config import DatagenConfig
from haustra.simulator.generate import generate_runs
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Split, open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.order import epoch_order
from kvasir_steps import StepError, run_logged, say

PACKAGES = (
    "torch==2.14.1",
    "torchvision==0.29.1",  # mosaicml-streaming does not import without it
    "litdata==0.2.76",
    "mosaicml-streaming==0.13.0",
    "opencv-python-headless",
)
PEERS = (
    "DataLoader, source images",
    "DataLoader, JPEG of the stored size",
    "litdata, JPEG",
    "litdata, raw",
    "MosaicML Streaming, JPEG",
    "MosaicML Streaming, raw",
    "litdata, raw, no workers",
    "MosaicML Streaming, raw, no workers",
)
"""Names that `loader_peer_script.py` knows."""
BATCH_SIZE = 16
JPEG_QUALITY = 95
SECONDS_OF_OURS = 1.0
"""Our epochs are short: as many are timed together as last so long."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one or more epochs."""

    whole: float
    """Images/s of whole epochs."""
    flowing: float
    """Images/s from the first batch of an epoch to its end, that batch not counted."""


def make_peer_environment(work: Path) -> Path:
    """Make the peers' environment in the work folder, unless it is there; return its Python."""
    folder = work / "environment"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        log = work / "environment.log"
        run_logged(
            [sys.executable, "-m", "venv", "--clear", folder], log=log, what="make an environment"
        )
        run_logged(
            [python, "-m", "pip", "install", "--disable-pip-version-check", *PACKAGES],
            log=log,
            what="install " + " ".join(PACKAGES),
        )
        ready.touch()
    return python


def build_split(data: Path | None, *, work: Path, size: int) -> tuple[Split, list[Path]]:
    """Build a warehouse with all samples in training; return it and the source image of each."""
    captures = work / "captures"
    if data is None:
        generate_runs(DatagenConfig(output_root=captures, frames=400, size=512))
    else:
        import_masks(
            data / "images",
            data / "masks",
            config=MaskImportConfig(
                output_root=captures,
                dataset="Kvasir-SEG",
                licence="research and education only",
                citation=None,
            ),
        )
    manifest = build_warehouse(
        ETLConfig(
            captures=captures, output_root=work / "warehouse", target_size=str(size), split="1,0,0"
        )
    ).manifest_path
    split = open_split(manifest, split="train")
    rows = split.table.select(["run_id", "source_image"]).to_pylist()
    folders = {
        json.loads(path.read_text())["run_id"]: path.parent
        for path in captures.glob("run_*/run_manifest.json")
    }
    return split, [folders[row["run_id"]] / row["source_image"] for row in rows]


def write_samples(split: Split, *, sources: list[Path], folder: Path) -> None:
    """Write the samples for the peers, as pixels and as JPEG."""
    batch = split.gather(np.arange(len(split)))
    (folder / "jpeg").mkdir(parents=True)
    np.save(folder / "images.npy", batch.images)
    np.save(folder / "boxes.npy", batch.boxes_xyxy)
    for index, image in enumerate(batch.images):
        cv2.imwrite(
            str(folder / "jpeg" / f"{index:06d}.jpg"),
            cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
        )
    (folder / "sources.txt").write_text("".join(f"{path.resolve()}\n" for path in sources))


class Peer:
    """A peer's process, which converts the samples and then times an epoch when asked."""

    def __init__(self, name: str, *, python: Path, folder: Path) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        self._errors = self._log.open("w")
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("loader_peer_script.py"), name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        say(f"{name}: {json.dumps(self._answer())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        """End the process."""
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise AssertionError("it was asked for")
        return pipe

    def _answer(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise StepError(f"{self.name} ended: {' '.join(last) or 'no output'}")
        value: dict[str, Any] = json.loads(line)
        return value

    def measure(self) -> Speed:
        """Time one epoch."""
        pipe = self._pipe(self._process.stdin)
        pipe.write("\n")
        pipe.flush()
        found = self._answer()
        return Speed(
            whole=found["images"] / found["s"],
            flowing=(found["images"] - BATCH_SIZE) / (found["s"] - found["first_s"]),
        )


def read_epoch(split: Split, *, epoch: int) -> tuple[int, float, float]:
    """Return the images of one of our epochs, its seconds, and those until its first batch."""
    started = time.perf_counter()
    order = epoch_order(split.shard_sizes, seed=0, epoch=epoch)
    num_images, first_s = 0, 0.0
    for _, batch in iterate_batches(split, order=order, batch_size=BATCH_SIZE):
        num_images += len(batch.images)
        first_s = first_s or time.perf_counter() - started
    return num_images, time.perf_counter() - started, first_s


def measure_ours(split: Split) -> Speed:
    """Time some epochs of ours."""
    num_images = num_epochs = 0
    whole_s = first_s = 0.0
    while whole_s < SECONDS_OF_OURS:
        found = read_epoch(split, epoch=num_epochs)
        num_epochs += 1
        num_images, whole_s, first_s = num_images + found[0], whole_s + found[1], first_s + found[2]
    return Speed(
        whole=num_images / whole_s,
        flowing=(num_images - num_epochs * BATCH_SIZE) / (whole_s - first_s),
    )


def _text(values: list[float], *, digits: int) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def result_table(pairs: dict[str, list[tuple[Speed, Speed]]]) -> list[str]:
    """Return the lines of a Markdown table from (theirs, ours) of each round, by peer."""
    lines = [
        "| loader | images/s | ours / it, whole epochs | ours / it, from the first batch on |",
        "|---|---|---|---|",
    ]
    ours = [mine.whole for rounds in pairs.values() for _, mine in rounds]
    lines.append(f"| haustra | {_text(ours, digits=0)} | | |")
    for name, rounds in pairs.items():
        speed = _text([theirs.whole for theirs, _ in rounds], digits=0)
        whole = _text([mine.whole / theirs.whole for theirs, mine in rounds], digits=1)
        flowing = _text([mine.flowing / theirs.flowing for theirs, mine in rounds], digits=1)
        lines.append(f"| {name} | {speed} | {whole} | {flowing} |")
    return lines


def main() -> None:
    """Measure all loaders and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="images/ and masks/; simulated frames if left out"
    )
    parser.add_argument("--peer-python", type=Path, help="Python that has the peers' packages")
    parser.add_argument(
        "--work", type=Path, help="folder for all files; a temporary one by default"
    )
    parser.add_argument("--size", type=int, default=384, help="side in pixels of the stored images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        python = arguments.peer_python or make_peer_environment(work)
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
        split, sources = build_split(arguments.data, work=run, size=arguments.size)
        write_samples(split, sources=sources, folder=run / "samples")
        say(f"{len(split)} samples of {arguments.size}x{arguments.size}")
        keep_freed_memory()  # as `haustra train` does
        measure_ours(split)
        peers = []
        for name in arguments.peers:
            try:
                peer = Peer(name, python=python, folder=run / "samples")
            except StepError as error:
                say(f"left out: {error}")
                continue
            peers.append(stack.enter_context(peer))
        pairs: dict[str, list[tuple[Speed, Speed]]] = {peer.name: [] for peer in peers}
        for number in range(arguments.rounds):
            for peer in peers:
                ours = measure_ours(split)
                pairs[peer.name].append((peer.measure(), ours))
            say(f"round {number + 1} of {arguments.rounds}")
        print("\n".join(result_table(pairs)))
        if len(peers) < len(arguments.peers):
            sys.exit(1)


if __name__ == "__main__":
    main()
