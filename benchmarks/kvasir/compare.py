"""haustra's detectors against YOLO11n on Kvasir-SEG, in one run on this machine's processor.

    python benchmarks/kvasir_vs_yolo.py [--data DIR] [--minutes 27] [--seeds 3]

Trains each detector for the same wall clock on the same 783 images, one at a time or with --jobs 2
two side by side on one thread each (2.5 in place of 5 hours), scores them on the same 215, times
their ONNX models in turns, and prints the tables and the bars of the project's goal. A finished
training stays in the work folder and is not repeated, so the script can be stopped and called
again. The tables say what was measured now and what was reused.

Missed bars are a result, not an error: the exit code is 0, and 1 where a step failed.
"""

import argparse
import math
import os
import platform
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import torch

from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.warehouse.dataset import open_split
from kvasir_latency import ROUNDS, measure_latencies
from kvasir_ours import (
    OUR_DETECTORS,
    SCORING_PACKAGES,
    TRAINING_PACKAGES,
    OurDetector,
    OurScores,
    Training,
    digest_packages,
    export_checked,
    export_forms,
    onnx_path,
    read_training,
    run_folder,
    score_training,
    train,
)
from kvasir_peer import (
    PEER_KEY,
    PEER_NAME,
    PeerResult,
    measure_peer,
    prepare_interpreter,
    read_peer,
)
from kvasir_steps import (
    LATENCY_SIZES,
    Settings,
    StepError,
    build_manifest,
    import_captures,
    minutes_text,
    now_text,
    say,
    stop_running,
)
from kvasir_tables import (
    FORMS,
    Bar,
    LatencyRow,
    Row,
    SeedEntry,
    accuracy_table,
    bars_table,
    build_bars,
    forms_table,
    latency_table,
    origin_table,
    summary_line,
)

LATENCY = "latency"
BUSY = 0.1
"""Share of the machine in others' use from which a training is said not to have been alone."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class OurResult:
    """One of haustra's detectors, trained and scored with one seed."""

    training: Training
    scores: OurScores


class Comparison:
    """One call of the script: what it was asked, and what it could not do."""

    def __init__(self, arguments: argparse.Namespace, *, settings: Settings) -> None:
        self.arguments = arguments
        self.settings = settings
        self.peer_settings = replace(settings, minutes=arguments.peer_minutes)
        self.selected = set(arguments.only or _choices())
        self.sources = digest_packages(TRAINING_PACKAGES)
        self.scoring_sources = digest_packages(SCORING_PACKAGES)
        self.failures: list[str] = []
        self.trainings: dict[tuple[str, int], Training | None] = {}
        self.peers: list[PeerResult] = []

    def attempt(self, step: Callable[[], Result]) -> Result | None:
        """Do a step; where it fails, say so, remember it and go on."""
        try:
            return step()
        except (StepError, HaustraError) as error:
            say(f"FAILED: {error}")
            if str(error) not in self.failures:
                self.failures.append(str(error))
            return None

    def train_all(self) -> None:
        """Do the trainings that are selected and not there yet, `--jobs` of them side by side."""
        with ThreadPoolExecutor(self.arguments.jobs) as pool:
            ours = {
                (detector.key, seed): pool.submit(self._our_training, detector, seed=seed)
                for seed in range(self.arguments.seeds)
                for detector in OUR_DETECTORS
            }
            peers = [pool.submit(self._peer, seed) for seed in range(self.arguments.peer_seeds)]
            try:
                self.trainings = {key: training.result() for key, training in ours.items()}
                self.peers = [found for peer in peers if (found := peer.result())]
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_running()
                raise

    def measure_ours(self, detector: OurDetector) -> list[OurResult]:
        """Score one of haustra's detectors with every seed that was trained."""
        results = []
        settings, sources = self.settings, self.scoring_sources
        for seed in range(self.arguments.seeds):
            training = self.trainings[detector.key, seed]
            if training is None:
                continue
            self.attempt(partial(export_checked, training, settings=settings, sources=sources))
            scores = self.attempt(
                partial(score_training, training, settings=settings, sources=sources)
            )
            if scores:
                results.append(OurResult(training=training, scores=scores))
        return results

    def _our_training(self, detector: OurDetector, *, seed: int) -> Training | None:
        settings, sources = self.settings, self.sources
        if detector.key in self.selected:
            return self.attempt(
                partial(train, detector, seed=seed, settings=settings, sources=sources)
            )
        folder = run_folder(detector, seed=seed, settings=settings, sources=sources)
        return read_training(folder, seed=seed)

    def _peer(self, seed: int) -> PeerResult | None:
        settings, threads = self.peer_settings, self.arguments.peer_threads
        result = read_peer(seed=seed, settings=settings, threads=threads)
        if result is None and PEER_KEY in self.selected:
            result = self.attempt(partial(self._measure_peer, seed))
        return result

    def _measure_peer(self, seed: int) -> PeerResult:
        settings, threads = self.peer_settings, self.arguments.peer_threads
        python = self.arguments.peer_python or prepare_interpreter(settings.work)
        return measure_peer(python=python, seed=seed, settings=settings, threads=threads)

    def measure_latency(
        self, ours: dict[OurDetector, list[OurResult]], peers: list[PeerResult]
    ) -> list[LatencyRow]:
        """Time the first seed of each detector, in both forms, at each size."""
        if LATENCY not in self.selected:
            return []
        rows = []
        trainings = {detector: found[0].training for detector, found in ours.items() if found}
        for size in LATENCY_SIZES:
            paths = {(PEER_KEY, PEER_NAME, "float32"): peers[0].onnx_paths[size]} if peers else {}
            for detector, training in trainings.items():
                export_forms(
                    training, size=size, settings=self.settings, sources=self.scoring_sources
                )
                for form in FORMS:
                    paths[detector.key, detector.name, form] = onnx_path(
                        training.checkpoint, form=form, size=size, sources=self.scoring_sources
                    )
            rows += self._time_in_turns(paths, size=size)
        return rows

    def _time_in_turns(
        self, paths: dict[tuple[str, str, str], Path], *, size: int
    ) -> list[LatencyRow]:
        if not paths:
            return []
        say(f"time {len(paths)} ONNX models at {size}x{size}, {ROUNDS} rounds")
        split = open_split(self.settings.manifests[size], split="val")
        image = split.gather(np.zeros(1, dtype=np.int64)).images[0]
        found = measure_latencies(
            {" ".join(labels): path for labels, path in paths.items()},
            image=image,
            reference=f"{PEER_KEY} {PEER_NAME} float32",
        )
        return [
            LatencyRow(key=key, name=name, form=form, size=size, latency=latency)
            for (key, name, form), latency in zip(paths, found.values(), strict=True)
        ]


def _choices() -> list[str]:
    return [*(detector.key for detector in OUR_DETECTORS), PEER_KEY, LATENCY]


def our_row(detector: OurDetector, results: list[OurResult]) -> Row:
    """Return a detector's line of the tables."""
    return Row(
        name=detector.name,
        seeds=tuple(
            SeedEntry(
                seed=result.training.seed,
                reused=result.training.reused,
                finished_at=result.training.finished_at,
                epochs=result.training.epochs,
                images_per_s=result.training.images_per_s,
                scores=result.scores.shipped,
                dense_nms_ap50=result.scores.dense_nms.ap50,
                shuffled_ap50=result.scores.shuffled.ap50,
                int8=result.scores.int8,
                parameters=result.scores.parameters,
            )
            for result in results
        ),
    )


def peer_row(results: list[PeerResult], *, by_ours: bool, minutes: float) -> Row:
    """Return the peer's line of the tables, by its own metrics or by haustra's."""
    name = f"{PEER_NAME}, {minutes_text(minutes)}"
    return Row(
        name=name + (", by haustra's metrics" if by_ours else ""),
        seeds=tuple(
            SeedEntry(
                seed=result.seed,
                reused=result.reused,
                finished_at=result.finished_at,
                epochs=result.epochs,
                images_per_s=result.images_per_s,
                scores=result.by_ours if by_ours else result.by_itself,
                shuffled_ap50=result.shuffled.ap50 if by_ours else None,
            )
            for result in results
        ),
    )


def build_rows(
    ours: dict[OurDetector, list[OurResult]], peers: list[PeerResult], *, peer_minutes: float
) -> dict[str, Row]:
    """Return the lines of the tables by key; what was not measured has none."""
    rows = {}
    if peers:
        rows[PEER_KEY] = peer_row(peers, by_ours=False, minutes=peer_minutes)
        rows[f"{PEER_KEY}-by-ours"] = peer_row(peers, by_ours=True, minutes=peer_minutes)
    return rows | {
        detector.key: our_row(detector, results) for detector, results in ours.items() if results
    }


def conditions(
    settings: Settings,
    *,
    jobs: int,
    ours: dict[OurDetector, list[OurResult]],
    peers: list[PeerResult],
) -> list[str]:
    """Return what the reader must know to judge the numbers, a line each."""
    lines = [
        f"Kvasir-SEG (D. Jha et al. 2020), {settings.size}x{settings.size}, "
        f"{minutes_text(settings.minutes)} of training each without validation, {jobs} at a time, "
        f"on {os.cpu_count()} processor cores; printed {now_text()}.",
        f"haustra trains in PyTorch {torch.__version__} on {settings.threads} thread(s); ONNX "
        f"Runtime {onnxruntime.__version__}; Python {platform.python_version()}.",
    ]
    lines += [
        f"The peer's seed {peer.seed} trained in {peer.versions}, on {peer.threads} thread(s) and "
        "one loader process (--peer-threads; Ultralytics takes 1 unless OMP_NUM_THREADS says "
        "otherwise)."
        for peer in peers
    ]
    trainings: list[tuple[str, Training | PeerResult]] = [(PEER_NAME, peer) for peer in peers]
    for detector, results in ours.items():
        trainings += [(detector.name, result.training) for result in results]
    lines += [
        f"NOT ALONE: others used {found.busy_before:.0%} of the machine just before {name}, seed "
        f"{found.seed}, began to train."
        for name, found in trainings
        if jobs == 1 and found.busy_before is not None and found.busy_before > BUSY
    ]
    return lines


def report_lines(
    notes: list[str],
    *,
    rows: dict[str, Row],
    latencies: list[LatencyRow],
    bars: list[Bar],
    failures: list[str],
) -> list[str]:
    """Return the whole report as lines of Markdown."""
    shown = list(rows.values())
    lines = ["# haustra against YOLO11n on Kvasir-SEG", "", *(f"- {note}" for note in notes)]
    lines += ["", "## Accuracy", "", "As shipped: one-to-one, no suppression, float32.", ""]
    lines += [*accuracy_table(shown), "", *forms_table(shown), "", *origin_table(shown)]
    lines += ["", "## Latency", "", "ONNX Runtime, one image, one thread, in turns; seed 0.", ""]
    lines += latency_table(latencies) if latencies else ["Not measured in this call."]
    lines += ["", "## Bars (means over the seeds)", "", *bars_table(bars), "", summary_line(bars)]
    if failures:
        lines += ["", "## Failed steps", "", *(f"- {failure}" for failure in failures)]
    return lines


def prepare_data(arguments: argparse.Namespace) -> Settings:
    """Import the data set and build a warehouse of each size, where they are not there yet."""
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
    """Measure what is wanted, print and write the report, and return the steps that failed."""
    settings = prepare_data(arguments)
    comparison = Comparison(arguments, settings=settings)
    comparison.train_all()
    ours = {detector: comparison.measure_ours(detector) for detector in OUR_DETECTORS}
    peers = comparison.peers
    latencies = comparison.attempt(partial(comparison.measure_latency, ours, peers)) or []

    rows = build_rows(ours, peers, peer_minutes=comparison.peer_settings.minutes)
    bars = build_bars(rows, latencies, sizes=LATENCY_SIZES)
    notes = conditions(settings, jobs=arguments.jobs, ours=ours, peers=peers)
    failures = comparison.failures
    lines = report_lines(notes, rows=rows, latencies=latencies, bars=bars, failures=failures)
    text = "\n".join(lines) + "\n"
    write_text_atomic(settings.work / "report.md", text=text)
    value = {
        "notes": notes,
        "detectors": {key: asdict(row) for key, row in rows.items()},
        "latencies": [asdict(row) for row in latencies],
        "bars": [asdict(bar) | {"met": bar.met} for bar in bars],
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data/kvasir-seg"),
        help="folder with images/ and masks/ of Kvasir-SEG",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".bench/kvasir_vs_yolo"),
        help="folder for everything that is made, and for finished results",
    )
    parser.add_argument("--minutes", type=_minutes, default=27.0, help="of training per detector")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each of our detectors")
    parser.add_argument(
        "--peer-minutes",
        type=_minutes,
        help="of training of the peer; as --minutes. A few do where only speed is asked for",
    )
    parser.add_argument("--peer-seeds", type=int, default=1, help="trainings of the peer")
    parser.add_argument("--size", type=int, default=256, help="side of the training images")
    parser.add_argument(
        "--only",
        action="append",
        choices=_choices(),
        help="measure only this (repeatable); of the rest, show what is there already",
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument(
        "--threads",
        type=int,
        help="that each of our trainings computes on; all processor cores, divided by --jobs",
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        help="interpreter with torch, torchvision, ultralytics and onnx; else one is set up",
    )
    parser.add_argument(
        "--peer-threads",
        type=int,
        default=1,
        help="threads that the peer trains on; 1 is Ultralytics' own default on a processor",
    )
    arguments = parser.parse_args()
    if arguments.peer_minutes is None:
        arguments.peer_minutes = arguments.minutes
    return arguments


def main() -> int:
    """Run the comparison; see the module's docstring."""
    arguments = parse_arguments()
    if not (arguments.data / "images").is_dir() or not (arguments.data / "masks").is_dir():
        print(f"skipped: no Kvasir-SEG in {arguments.data} (expected its images/ and masks/)")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop what runs then, too
    try:
        failures = compare(arguments)
    except KeyboardInterrupt:
        print("\nstopped; finished trainings stay, the same call goes on from there")
        return 130
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
