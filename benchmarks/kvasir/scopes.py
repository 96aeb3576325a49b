"""Detectors across scopes: trained on one set of Kvasir-SEG's scopes, measured on another.

    python -m benchmarks.kvasir.scopes [--data FOLDER] [--work FOLDER] [--size 128] [--epochs 60]
        [--seeds 4] [--recipe FILE] [--sheet FILE]

A stand-in for a second hospital. Each image gets a number for its look, which adds up what differs
between scopes and video processors: an inset in the lower left corner, the depth of the black
corners, tint, and sharpness. The two fifths with the highest numbers are one set of scopes, the
two fifths with the lowest the other, and the fifth between them is left out. `--sheet FILE` draws
some of both.

BigDet is trained on three quarters of each set, about 300 images, and measured on the other quarter
of both. The rows are means over both sets: each detector on its own scopes, each on the other's,
and the difference. Detectors and images are the same on both sides of it. The last row is measured
on all images of the other set, so it varies less. Finished trainings in --work are not repeated.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.kvasir.data import DEFAULT_FOLDER, build_manifest, require_data
from benchmarks.kvasir.ours import TRAINING_PACKAGES
from benchmarks.measure import build_parser, markdown_table, range_text
from benchmarks.sources import digest_packages
from benchmarks.steps import run_logged, say
from haustra.core.digests import digest_json
from haustra.core.images import list_images, read_image_rgb, write_png
from haustra.evaluation.evaluation import evaluate_frames
from haustra.evaluation.frames import SplitFrames
from haustra.evaluation.metrics import average_precision
from haustra.inference.detector import open_detector
from haustra.warehouse.dataset import open_split
from haustra.warehouse.format import SplitName, read_manifest

Image = NDArray[np.uint8]

SETS = ("a", "b")
SET_SHARE = 0.4  # of all images; the rest lies between the two sets
SPLIT_RULE = "sha256:4"
ROWS = (
    "the same scopes",
    "other scopes",
    "loss",
    "other scopes, measured on all images",
)
DARK = 24  # brightest channel of the black around a picture, in a JPEG
LEAST_INSET_PX = 16.0
"""The black in the lower left corner reaches this much deeper than in the others where there is an
inset, of 256 pixels."""
CROP_PX = 128  # side of the square in the middle whose spectrum is taken


@dataclass(frozen=True, kw_only=True)
class Look:
    """Traces of the scope and of the video processor in one image of 256x256."""

    inset: float
    """1 with a square in the lower left corner, else 0."""
    round_corners: float
    """Depth of the black corners along their diagonals in pixels, negative; discs have less."""
    red: float
    """Logarithm of red over green."""
    yellow: float
    """Logarithm of green over blue."""
    sharpness: float
    """Logarithm of the power of fine detail over that of coarse detail."""


WEIGHTS = Look(inset=1.5, round_corners=1.0, red=1.0, yellow=1.0, sharpness=1.0)
"""Weight of each trace, after it is scaled to a deviation of 1 over all images."""


def _corner_depth(dark: NDArray[np.bool_]) -> float:
    """Return how many pixels of the diagonal from the first pixel are dark."""
    diagonal = np.diagonal(dark)[:100]
    return float(diagonal.argmin()) if not diagonal.all() else 100.0


def describe_look(image_rgb: Image) -> Look:
    """Return the look of an image, uint8 [H,W,3]."""
    dark = image_rgb.max(axis=2) < DARK
    top_left, top_right, bottom_left, bottom_right = (
        _corner_depth(turned) for turned in (dark, dark[:, ::-1], dark[::-1], dark[::-1, ::-1])
    )
    corners = float(np.median([top_left, top_right, bottom_right]))
    middle = image_rgb[40:216, 40:216].astype(np.float64)
    light = middle.mean(axis=2)
    is_lit = (light > 40) & (light < 220)
    red, green, blue = middle[is_lit].mean(axis=0) + 1e-6
    low, high = (image_rgb.shape[0] - CROP_PX) // 2, (image_rgb.shape[0] + CROP_PX) // 2
    gray = cv2.cvtColor(image_rgb[low:high, low:high], cv2.COLOR_RGB2GRAY).astype(np.float64)
    window = np.outer(np.hanning(CROP_PX), np.hanning(CROP_PX))
    power = np.abs(np.fft.fftshift(np.fft.fft2((gray - gray.mean()) * window))) ** 2
    rows, columns = np.indices(power.shape) - CROP_PX // 2
    radius = np.hypot(rows, columns)
    coarse, fine = (
        np.log10(power[(radius >= start) & (radius < end)].mean() + 1)
        for start, end in ((8, 16), (32, 48))
    )
    return Look(
        inset=float(bottom_left - corners > LEAST_INSET_PX),
        round_corners=-float(np.clip(corners, 15, 60)),
        red=float(np.log(red / green)),
        yellow=float(np.log(green / blue)),
        sharpness=float(fine - coarse),
    )


def choose_sets(looks: list[Look]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the images of both sets of scopes."""
    values = np.array([astuple(look) for look in looks])
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    order = np.argsort(scaled @ astuple(WEIGHTS), kind="stable")
    count = int(SET_SHARE * len(order))
    return order[-count:], order[:count]


def link_sets(data: Path, *, work: Path) -> dict[str, Path]:
    """Make a folder of links to the images and masks of each set, and return the folders."""
    images = sorted(list_images(data / "images"), key=lambda path: path.name)
    looks = [describe_look(read_image_rgb(path)) for path in images]
    folders = {name: work / f"scopes_{name}" for name in SETS}
    for (name, folder), chosen in zip(folders.items(), choose_sets(looks), strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
            for index in chosen.tolist():
                file = data / part / images[index].name
                (folder / part / file.name).symlink_to(file.resolve())
        means = np.mean([astuple(looks[index]) for index in chosen.tolist()], axis=0)
        traces = zip((field.name for field in fields(Look)), means.tolist(), strict=True)
        text = ", ".join(f"{trace} {mean:.2f}" for trace, mean in traces)
        say(f"scopes {name}: {len(chosen)} images; mean {text}")
    return folders


def draw_sets(folders: dict[str, Path], *, path: Path) -> None:
    """Draw 40 images of each set, those of the first set above."""
    tiles = []
    for folder in folders.values():
        images = list_images(folder / "images")
        tiles += [
            read_image_rgb(images[index * len(images) // 40])[::2, ::2] for index in range(40)
        ]
    rows = [np.hstack(tiles[start : start + 20]) for start in range(0, len(tiles), 20)]
    write_png(path, image_rgb=np.vstack(rows))


def train(manifest: Path, *, folder: Path, seed: int, arguments: argparse.Namespace) -> Path:
    """Train BigDet by `haustra train` and return the checkpoint; a finished one is returned."""
    recipe = arguments.recipe
    decisive = {
        "sources": digest_packages(TRAINING_PACKAGES),
        "warehouse": read_manifest(manifest).version,
        "recipe": recipe and recipe.read_text(),
        "epochs": arguments.epochs,
        "threads": arguments.threads,
    }
    checkpoint = folder / f"s{seed}_{digest_json(decisive)[:12]}.bin"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "haustra",
        "train",
        "--model",
        "big",
        "--manifest",
        manifest,
    ]
    command += ["--epochs", str(arguments.epochs), "--seed", str(seed), "--val-every", "1000"]
    command += ["--checkpoint-out", checkpoint, "--if-finished", "skip"]
    run_logged(
        command + (["--recipe", recipe] if recipe else []),
        log=checkpoint.with_suffix(".log"),
        what=f"train on {folder.name}, seed {seed}",
        environment=os.environ | {"OMP_NUM_THREADS": str(arguments.threads)},
    )
    return checkpoint


def measure(
    checkpoint: Path, manifest: Path, *, splits: Sequence[SplitName]
) -> NDArray[np.float64]:
    """Return AP50, AP75 and AP50-95 on some splits together."""
    detector = open_detector(checkpoint)
    found = [
        evaluate_frames(SplitFrames(open_split(manifest, split=split)), detector)
        for split in splits
    ]
    scores = average_precision(
        [truth for evaluation in found for truth in evaluation.truths],
        [prediction for evaluation in found for prediction in evaluation.predictions],
    )
    return np.array([scores.ap50 or 0.0, scores.ap75 or 0.0, scores.ap50_95 or 0.0])


def measure_seed(
    manifests: dict[str, Path], *, seed: int, arguments: argparse.Namespace
) -> list[NDArray[np.float64]]:
    """Train on both sets, and return the scores of the rows of the table."""
    same: list[NDArray[np.float64]] = []
    other, whole = list(same), list(same)
    for name, manifest in manifests.items():
        folder = arguments.work / name
        checkpoint = train(manifest, folder=folder, seed=seed, arguments=arguments)
        for measured, its_manifest in manifests.items():
            scores = measure(checkpoint, its_manifest, splits=["val"])
            (same if measured == name else other).append(scores)
            if measured != name:
                whole.append(measure(checkpoint, its_manifest, splits=["train", "val"]))
    means = [np.mean(scores, axis=0) for scores in (same, other, whole)]
    return [means[0], means[1], means[0] - means[1], means[2]]


def main() -> int:
    """Print the table, and the rows of each seed."""
    parser = build_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--work", type=Path, default=Path(".bench/scopes"))
    parser.add_argument("--size", type=int, default=128, help="side in pixels of the images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, and replicas")
    parser.add_argument("--recipe", type=Path, help="recipe of `haustra train`")
    parser.add_argument("--sheet", type=Path, help="draw images of both sets into this PNG")
    arguments = parser.parse_args()
    require_data(arguments.data)
    folders = link_sets(arguments.data, work=arguments.work)
    if arguments.sheet:
        draw_sets(folders, path=arguments.sheet)
    manifests = {
        name: build_manifest(
            folder, work=arguments.work / name, size=arguments.size, split_rule=SPLIT_RULE
        )
        for name, folder in folders.items()
    }
    results = [
        measure_seed(manifests, seed=seed, arguments=arguments) for seed in range(arguments.seeds)
    ]
    rows = [
        [
            label,
            *(
                range_text([result[row][metric] for result in results], digits=3)
                for metric in range(3)
            ),
        ]
        for row, label in enumerate(ROWS)
    ]
    print("\n".join(markdown_table(["trained on", "AP50", "AP75", "AP50-95"], rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
