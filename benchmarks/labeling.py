"""Measures whether `haustra infer --rank` chooses better images to label than chance does.

    python -m benchmarks.labeling [--work DIR] [--seeds 3] [--epochs 100]

TinyDet learns from 60 simulated stills. Of 400 others, 60 more are chosen at random and by each
rule, at the default threshold and at one that `haustra eval --fit --fit-by f1` finds on 100 more
stills. TinyDet then learns from all 120 from the beginning, and is measured on 400 stills of other
colons. A seed has its own colons, weights and order, the same for all rules. A third of the colons
has no polyp. Each training takes about a minute on one core.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haustra.captures.reader import Frame, read_runs
from haustra.captures.schema import RunManifest
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.files import read_json, write_json_atomic
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.stage import evaluate_detector
from haustra.inference.config import InferConfig, RankRule
from haustra.inference.pictures import infer_pictures
from haustra.simulator.config import DatagenConfig
from haustra.simulator.generate import generate_runs
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

SIZE, FRAMES_PER_COLON = 128, 10
COLONS = {"start": 6, "pool": 40, "test": 40, "val": 10}
NUM_CHOSEN = 60
RULES: tuple[RankRule, ...] = ("uncertain", "disagree")


def simulate(folder: Path, *, seed: int) -> dict[str, list[Frame]]:
    """Return the frames of each part; two colons of three have a polyp."""
    parts = {}
    first = 10_000 * (seed + 1)
    for name, count in COLONS.items():
        with_polyp = round(count * 2 / 3)
        for num_polyps, runs in ((1, with_polyp), (0, count - with_polyp)):
            generate_runs(
                DatagenConfig(
                    output_root=folder / name,
                    runs=runs,
                    frames=FRAMES_PER_COLON,
                    seed=first,
                    size=SIZE,
                    polyps_per_run=num_polyps,
                    jobs=2,
                )
            )
            first += runs
        parts[name] = [frame for run in read_runs(folder / name) for frame in run.frames]
    return parts


def write_part(root: Path, *, name: str, frames: Sequence[Frame]) -> Path:
    """Write frames with their labels as one run, whose group is its name."""
    manifest = RunManifest(run_id=name, source="imported", group_id=name)
    with writing_run(root / f"run_{name}", manifest=manifest, overwrite=True) as writer:
        for frame in frames:
            checked = check_frame(frame)
            if not isinstance(checked, CheckedFrame) or frame.image_path is None:
                raise AssertionError("simulated frames are whole")
            writer.add_frame(
                frame.image_path,
                suffix=frame.image_path.suffix,
                image_size_wh=checked.size_wh,
                labels=[PolypTruth(bbox_px=tuple(box)) for box in checked.boxes_px.tolist()],
                source_name=frame.sample_id,
            )
    return root / f"run_{name}"


def learn(
    folder: Path, *, train: Sequence[Frame], parts: dict[str, list[Frame]], epochs: int, seed: int
) -> tuple[Path, Path, float]:
    """Train on frames; return warehouse, checkpoint and AP50 on the test frames."""
    splits = {"train": train, "val": parts["val"], "test": parts["test"]}
    for name, frames in splits.items():
        write_part(folder / "captures", name=name, frames=frames)
    write_json_atomic(folder / "split.json", value={name: [name] for name in splits})
    built = build_warehouse(
        ETLConfig(
            captures=folder / "captures",
            output_root=folder / "warehouse",
            target_size=str(SIZE),
            split_file=folder / "split.json",
        )
    )
    checkpoint = folder / "tinydet.bin"
    train_detector(
        TrainConfig(
            manifest=built.manifest_path,
            epochs=epochs,
            val_every=epochs,
            seed=seed,
            checkpoint_out=checkpoint,
        )
    )
    config = EvalConfig(manifest=built.manifest_path, detector_weights=checkpoint, bootstrap=0)
    score = evaluate_detector(config).evaluation.metrics.average_precision.ap50
    return built.manifest_path, checkpoint, score or 0.0


def choose(folder: Path, *, rule: RankRule, weights: Path) -> list[int]:
    """Return the numbers of the frames of the pool that a rule chooses."""
    result = infer_pictures(
        InferConfig(
            image=folder / "run_pool",
            detector_weights=weights,
            rank=rule,
            rank_count=NUM_CHOSEN,
            output_root=folder / "pictures",
        )
    )
    return [int(picture.image.stem.rpartition("_")[2]) for picture in result.pictures]


def run_seed(folder: Path, *, seed: int, epochs: int) -> dict[str, float]:
    """Return the AP50 of the detector that chooses, and after each choice."""
    parts = simulate(folder / "simulated", seed=seed)
    start, pool = parts["start"], parts["pool"]
    manifest, weights, score = learn(
        folder / "start", train=start, parts=parts, epochs=epochs, seed=seed
    )
    scores = {"start": score}
    write_part(folder, name="pool", frames=pool)
    chosen = {"random": random.Random(seed).sample(range(len(pool)), NUM_CHOSEN)}
    for rule in RULES:
        chosen[f"{rule}, not fitted"] = choose(folder, rule=rule, weights=weights)
    fit = EvalConfig(
        manifest=manifest, detector_weights=weights, split="val", fit=True, fit_by="f1", bootstrap=0
    )
    print(f"seed {seed}: {evaluate_detector(fit).operating_point}", flush=True)
    for rule in RULES:
        chosen[rule] = choose(folder, rule=rule, weights=weights)
    for name, numbers in chosen.items():
        train = [*start, *(pool[number] for number in numbers)]
        *_, scores[name] = learn(folder / name, train=train, parts=parts, epochs=epochs, seed=seed)
        labels = [label for number in numbers if (label := pool[number].label)]
        num_polyps = sum(bool(label.labels) for label in labels)
        print(
            f"seed {seed}: {name}: {num_polyps} of {NUM_CHOSEN} images show a polyp; "
            f"AP50 {scores[name]:.3f}, before {score:.3f}",
            flush=True,
        )
    return scores


def main() -> None:
    """Run the seeds that have no result yet, and print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(".bench/labeling"))
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of each training")
    options = parser.parse_args()
    table = []
    for seed in range(options.seeds):
        folder = options.work / f"epochs_{options.epochs}" / f"seed_{seed}"
        if not (folder / "result.json").exists():
            scores = run_seed(folder, seed=seed, epochs=options.epochs)
            write_json_atomic(folder / "result.json", value=scores)
        table.append(read_json(folder / "result.json", what="a result"))
    print("| images labeled | AP50 | by seed | better than at random, by seed |")
    print("|---|---|---|---|")
    for name in table[0]:
        values = np.array([scores[name] for scores in table])
        gains = values - [scores["random"] for scores in table]
        texts = [", ".join(f"{value:+.3f}" for value in gains), ""]
        by_seed = ", ".join(f"{value:.3f}" for value in values)
        print(
            f"| {name} | {values.mean():.3f} | {by_seed} | {texts[name in ('start', 'random')]} |"
        )


if __name__ == "__main__":
    main()
