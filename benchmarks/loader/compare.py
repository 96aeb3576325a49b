"""The loader beside others that deliver the same samples, in images/s and in turns.

    python -m benchmarks.loader.compare                      # simulated frames
    python -m benchmarks.loader.compare --data kvasir-seg    # a folder with images/ and masks/

Every loader delivers shuffled batches of 16 images uint8 [16,H,W,3] (or [16,3,H,W]) and their boxes
to the main process, from a warm page cache:

- haustra: `iterate_batches` over a warehouse with its defaults;
- PyTorch's DataLoader, which decodes the source images and letterboxes them, or decodes JPEG files
  of the stored size;
- litdata and MosaicML Streaming, each from raw pixels and from JPEG.

The others have two persistent worker processes each. From raw pixels they are also measured without
workers, as haustra reads (a copy is faster than its way through another process).
`peer_script.py` documents the rest of their settings. They live in an environment of their own,
which is made in the work folder unless `--peer-python` names one, and take some gigabytes of disk
with the tensors. In each round every peer's epoch follows one of haustra's.
"""

import json
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

from benchmarks.kvasir.data import import_captures
from benchmarks.measure import NOTHING, build_parser, markdown_table, range_text
from benchmarks.steps import StepError, make_environment, say
from haustra.core.allocator import keep_freed_memory
from haustra.simulator.config import DatagenConfig
from haustra.simulator.generate import generate_runs
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Split, open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.order import epoch_order

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
"""The names in `peer_script.py`."""
BATCH_SIZE = 16
JPEG_QUALITY = 95
SECONDS_OF_OURS = 1.0
"""Our epochs are short: those of this many seconds are timed together."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of one or more epochs."""

    whole: float
    """Images/s of whole epochs."""
    flowing: float
    """Images/s after the first batch of an epoch."""


def build_split(data: Path | None, *, work: Path, size: int) -> tuple[Split, list[Path]]:
    """Build a warehouse with all samples in training; return it and the source image of each."""
    if data is None:
        captures = work / "captures"
        generate_runs(DatagenConfig(output_root=captures, frames=400, size=512))
    else:
        captures = import_captures(data, work=work).parent
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
            [python, Path(__file__).with_name("peer_script.py"), name, folder],
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


def result_table(pairs: dict[str, list[tuple[Speed, Speed]]]) -> list[str]:
    """Return the lines of a Markdown table from (theirs, ours) of each round, by peer."""
    ours = [mine.whole for rounds in pairs.values() for _, mine in rounds]
    rows = [("haustra", range_text(ours, digits=0), NOTHING, NOTHING)]
    rows += [
        (
            name,
            range_text([theirs.whole for theirs, _ in rounds], digits=0),
            range_text([mine.whole / theirs.whole for theirs, mine in rounds], digits=1),
            range_text([mine.flowing / theirs.flowing for theirs, mine in rounds], digits=1),
        )
        for name, rounds in pairs.items()
    ]
    columns = ("loader", "images/s", "ours / it, whole epochs", "ours / it, after the first batch")
    return markdown_table(columns, rows)


def main() -> None:
    """Measure all loaders and print the table."""
    parser = build_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder with images/ and masks/; simulated frames by default")
    add("--peer-python", type=Path, help="Python that has the peers' packages")
    add("--work", type=Path, help="folder for all files; a temporary one by default")
    add("--size", type=int, default=384, help="side in pixels of the stored images")
    add("--rounds", type=int, default=5, help="epochs of each peer")
    add("--peers", nargs="+", choices=PEERS, default=PEERS, help="loaders to compare with")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        python = arguments.peer_python or make_environment(work / "environment", packages=PACKAGES)
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
