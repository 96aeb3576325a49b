"""haustra's detectors beside YOLO11n on Kvasir-SEG, in one run on this machine's CPU.

    python -m benchmarks.kvasir.compare [--data DIR] [--minutes 27] [--seeds 3]

Trains each detector for the same wall clock on the same 783 images, scores them on the same 215,
times their ONNX models in turns, and prints the tables. Trainings run one at a time, or with
`--jobs 2` two side by side on one thread each, which takes 2.5 hours instead of 5. A finished
training stays in the work folder and is not repeated, so the script can be stopped and called
again. The tables name the results that were reused.

The exit code is 1 if a step failed.
"""

import argparse
import math
import os
import platform
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import torch

from benchmarks.kvasir.data import DEFAULT_FOLDER, build_manifest, import_captures, require_data
from benchmarks.kvasir.latency import ROUNDS, measure_latencies
from benchmarks.kvasir.ours import (
    FORMS,
    OUR_DETECTORS,
    OurDetector,
    Training,
    export_checked,
    export_forms,
    read_training,
    run_folder,
    score_training,
    train,
)
from benchmarks.kvasir.peer import PACKAGES, PEER_KEY, PEER_NAME, measure_peer, read_peer
from benchmarks.kvasir.peer import PeerTraining as Peer
from benchmarks.kvasir.results import LATENCY_SIZES, Result, Row, Settings
from benchmarks.kvasir.tables import (
    LatencyRow,
    accuracy_table,
    forms_table,
    latency_table,
    origin_table,
)
from benchmarks.measure import build_parser
from benchmarks.steps import StepError, make_environment, now_text, say, stop_running
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.warehouse.dataset import open_split

LATENCY = "latency"
CHOICES = [*(detector.key for detector in OUR_DETECTORS), PEER_KEY, LATENCY]
BUSY = 0.1
"""Share of the machine used by other programs from which the report carries a warning."""

Done = TypeVar("Done")


class Comparison:
    """One call of the script: its settings, and the steps that failed."""

    def __init__(self, arguments: argparse.Namespace, *, settings: Settings) -> None:
        self.arguments = arguments
        self.settings = settings
        self.peer_settings = replace(settings, minutes=arguments.peer_minutes)
        self.selected = set(arguments.only or CHOICES)
        self.failures: list[str] = []

    def attempt(self, step: Callable[[], Done]) -> Done | None:
        """Do a step; if it fails, print and remember the error, and return None."""
        try:
            return step()
        except (StepError, HaustraError) as error:
            say(f"FAILED: {error}")
            if str(error) not in self.failures:
                self.failures.append(str(error))
            return None

    def train_all(self) -> tuple[dict[OurDetector, list[Training]], list[Peer]]:
        """Train what is selected and not finished yet, `--jobs` trainings side by side."""
        with ThreadPoolExecutor(self.arguments.jobs) as pool:
            ours = [
                (detector, pool.submit(self._our_training, detector, seed=seed))
                for seed in range(self.arguments.seeds)
                for detector in OUR_DETECTORS
            ]
            peers = [pool.submit(self._peer, seed) for seed in range(self.arguments.peer_seeds)]
            trainings: dict[OurDetector, list[Training]] = {}
            try:
                for detector, future in ours:
                    if training := future.result():
                        trainings.setdefault(detector, []).append(training)
                return trainings, [found for peer in peers if (found := peer.result())]
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_running()
                raise

    def _our_training(self, detector: OurDetector, *, seed: int) -> Training | None:
        if detector.key in self.selected:
            return self.attempt(partial(train, detector, seed=seed, settings=self.settings))
        return read_training(run_folder(detector, seed=seed, settings=self.settings), seed=seed)

    def _peer(self, seed: int) -> Peer | None:
        settings, threads = self.peer_settings, self.arguments.peer_threads
        found = read_peer(seed=seed, settings=settings, threads=threads)
        if found is None and PEER_KEY in self.selected:
            found = self.attempt(partial(self._measure_peer, seed))
        return found

    def _measure_peer(self, seed: int) -> Peer:
        settings, threads = self.peer_settings, self.arguments.peer_threads
        python = self.arguments.peer_python or make_environment(
            settings.work / "peer_environment", packages=PACKAGES
        )
        return measure_peer(python=python, seed=seed, settings=settings, threads=threads)

    def score_all(self, trainings: list[Training]) -> list[Result]:
        """Export and score one of haustra's detectors with every seed."""
        results = []
        for training in trainings:
            self.attempt(partial(export_checked, training, settings=self.settings))
            result = self.attempt(partial(score_training, training, settings=self.settings))
            results += [result] if result else []
        return results

    def time_all(
        self, trainings: dict[OurDetector, list[Training]], peers: list[Peer]
    ) -> list[LatencyRow]:
        """Time the first seed of each detector, in both forms, at each size, in turns."""
        rows: list[LatencyRow] = []
        for size in LATENCY_SIZES if LATENCY in self.selected else ():
            paths = {(PEER_NAME, "float32"): peers[0].onnx_paths[size]} if peers else {}
            for detector, found in trainings.items():
                forms = export_forms(found[0], size=size, settings=self.settings)
                paths |= {
                    (detector.name, form): path for form, path in zip(FORMS, forms, strict=True)
                }
            if not paths:
                continue
            say(f"time {len(paths)} ONNX models at {size}x{size}, {ROUNDS} rounds")
            split = open_split(self.settings.manifests[size], split="val")
            found_latencies = measure_latencies(
                {" ".join(labels): path for labels, path in paths.items()},
                image=split.gather(np.zeros(1, dtype=np.int64)).images[0],
                reference=f"{PEER_NAME} float32",
            )
            rows += [
                LatencyRow(name=name, form=form, size=size, latency=latency)
                for (name, form), latency in zip(paths, found_latencies.values(), strict=True)
            ]
        return rows


def build_rows(
    ours: dict[OurDetector, list[Result]], peers: list[Peer], *, peer_budget: str
) -> list[Row]:
    """Return the lines of the tables; a detector without a result has none."""
    name = f"{PEER_NAME}, {peer_budget}"
    rows = [
        Row(name=name, results=tuple(peer.by_itself for peer in peers)),
        Row(name=f"{name}, by haustra's metrics", results=tuple(peer.by_ours for peer in peers)),
        *(Row(name=detector.name, results=tuple(results)) for detector, results in ours.items()),
    ]
    return [row for row in rows if row.results]


def conditions(settings: Settings, *, jobs: int, rows: list[Row], peers: list[Peer]) -> list[str]:
    """Return the conditions of the measurement, a line each."""
    lines = [
        f"Kvasir-SEG (D. Jha et al. 2020), {settings.size}x{settings.size}, "
        f"{settings.time_budget} of training each without validation, {jobs} at a time, "
        f"on {os.cpu_count()} CPU cores; printed {now_text()}.",
        f"haustra trains in PyTorch {torch.__version__} on {settings.threads} thread(s); ONNX "
        f"Runtime {onnxruntime.__version__}; Python {platform.python_version()}.",
    ]
    lines += [
        f"The peer's seed {peer.by_itself.seed} trained in {peer.versions}, on {peer.threads} "
        "thread(s) and one loader process (--peer-threads; Ultralytics takes 1 unless "
        "OMP_NUM_THREADS says otherwise)."
        for peer in peers
    ]
    lines += [
        f"NOT ALONE: other programs used {result.busy_before:.0%} of the machine just before "
        f"{row.name}, seed {result.seed}, began to train."
        for row in rows
        for result in row.results
        if jobs == 1 and result.busy_before is not None and result.busy_before > BUSY
    ]
    return lines


def report_lines(
    notes: list[str], *, rows: list[Row], latencies: list[LatencyRow], failures: list[str]
) -> list[str]:
    """Return the whole report as lines of Markdown."""
    lines = ["# haustra beside YOLO11n on Kvasir-SEG", "", *(f"- {note}" for note in notes)]
    lines += ["", "## Accuracy", "", "As shipped: one-to-one, no suppression, float32.", ""]
    lines += [*accuracy_table(rows), "", *forms_table(rows), "", *origin_table(rows)]
    lines += ["", "## Latency", "", "ONNX Runtime, one image, one thread, in turns; seed 0.", ""]
    lines += latency_table(latencies) if latencies else ["Not measured in this call."]
    if failures:
        lines += ["", "## Failed steps", "", *(f"- {failure}" for failure in failures)]
    return lines


def prepare_data(arguments: argparse.Namespace) -> Settings:
    """Import the dataset and build a warehouse of each size, unless they are there."""
    work = arguments.work.resolve()
    say("import and ETL")
    sizes = sorted({arguments.size, *LATENCY_SIZES})
    return Settings(
        work=work,
        minutes=arguments.minutes,
        size=arguments.size,
        threads=arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs),
        captures=import_captures(arguments.data, work=work),
        manifests={size: build_manifest(arguments.data, work=work, size=size) for size in sizes},
    )


def compare(arguments: argparse.Namespace) -> list[str]:
    """Measure, print and write the report, and return the steps that failed."""
    settings = prepare_data(arguments)
    comparison = Comparison(arguments, settings=settings)
    trainings, peers = comparison.train_all()
    ours = {detector: comparison.score_all(found) for detector, found in trainings.items()}
    latencies = comparison.attempt(partial(comparison.time_all, trainings, peers)) or []
    rows = build_rows(ours, peers, peer_budget=comparison.peer_settings.time_budget)
    notes = conditions(settings, jobs=arguments.jobs, rows=rows, peers=peers)
    failures = comparison.failures
    text = "\n".join(report_lines(notes, rows=rows, latencies=latencies, failures=failures)) + "\n"
    write_text_atomic(settings.work / "report.md", text=text)
    value = {
        "notes": notes,
        "detectors": [asdict(row) for row in rows],
        "latencies": [asdict(row) for row in latencies],
        "failures": failures,
    }
    write_json_atomic(settings.work / "report.json", value=value)
    say("done")
    print(text)
    return failures


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes above 0")
    return minutes


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = build_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=DEFAULT_FOLDER, help="folder with images/ and masks/")
    add("--work", type=Path, default=Path(".bench/kvasir"), help="folder of results to reuse")
    add("--minutes", type=_minutes, default=27.0, help="training time of each detector")
    add("--seeds", type=int, default=3, help="trainings of each of our detectors")
    add(
        "--peer-minutes",
        type=_minutes,
        help="training time of the peer, --minutes by default; a few are enough for its speed",
    )
    add("--peer-seeds", type=int, default=1, help="trainings of the peer")
    add("--size", type=int, default=256, help="side in pixels of the training images")
    add(
        "--only",
        action="append",
        choices=CHOICES,
        help="measure only this (repeatable); finished results of the others are shown",
    )
    add("--jobs", type=int, default=1, help="trainings side by side")
    add("--threads", type=int, help="threads of each of our trainings; all CPU cores over --jobs")
    add("--peer-python", type=Path, help=f"interpreter with {', '.join(PACKAGES)}")
    add(
        "--peer-threads",
        type=int,
        default=1,
        help="threads that the peer trains on; 1 is Ultralytics' default on a CPU",
    )
    arguments = parser.parse_args()
    if arguments.peer_minutes is None:
        arguments.peer_minutes = arguments.minutes
    return arguments


def main() -> int:
    """Run the comparison."""
    arguments = parse_arguments()
    require_data(arguments.data)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running step then, too
    try:
        failures = compare(arguments)
    except KeyboardInterrupt:
        print("\nstopped; finished trainings stay, and the same call continues from there")
        return 130
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
