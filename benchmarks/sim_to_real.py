"""Value of each part of the simulator for a detector that has seen no real image.

    python -m benchmarks.sim_to_real [--data DIR] [--work DIR] [--epochs 20] [--variants full,...]

The benchmark makes simulated stills as shipped and without each part, from the same seeds. It
trains a detector on each set for the same epochs and measures it on the 783 training images of
Kvasir-SEG, with bootstrap intervals (`runs/sim_to_real.sh` uses the validation images). TinyDet is
the default because it learns fastest on a CPU. Results stay in the work folder until a setting or
haustra's sources change. All variants take about an hour on two cores.

The intervals cover the choice of images, not the seeds of simulator and training.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.kvasir.data import build_manifest
from benchmarks.measure import NOTHING, markdown_table
from benchmarks.sources import digest_packages
from benchmarks.steps import StepError, run_logged, say
from haustra.core.digests import digest_json
from haustra.core.files import write_text_atomic
from haustra.warehouse.format import read_manifest

SIZE = 256
NUM_RESAMPLES = 1000
PACKAGES = (
    *("captures", "core", "evaluation", "inference"),
    *("models", "simulator", "training", "warehouse"),
)
"""Packages that affect a result; it is measured again if one of them has changed."""

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "full": ("as shipped", ()),
    "folds": ("without folds", ("--without", "folds")),
    "vessels": ("without vessels", ("--without", "vessels")),
    "falloff": ("without the falloff of the light", ("--without", "falloff")),
    "speculars": ("without speculars", ("--without", "speculars")),
    "fisheye": ("without the fisheye lens", ("--without", "fisheye")),
    "disturbances": ("without disturbances", ("--without", "disturbances")),
}
"""Title in the table and flags of `haustra datagen`, by the part that is left out."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of all variants."""

    runs: int  # simulated colons
    frames: int  # frames per colon
    epochs: int
    model: str  # `tiny` or `big`
    seed: int  # of the first run and of the training


def variant_folder(name: str, *, recipe: Recipe, work: Path, decisive: dict[str, str]) -> Path:
    """Return the folder of a variant, named by a digest of everything that affects its result.

    Args:
        name: Name of the variant.
        recipe: Settings of all variants.
        work: Folder of the benchmark.
        decisive: Digests of sources and data.
    """
    key = digest_json({"flags": list(VARIANTS[name][1]), **asdict(recipe), **decisive})
    return work / "runs" / f"{name}_{key[:12]}"


def measure_variant(
    name: str, *, recipe: Recipe, folder: Path, kvasir_manifest: Path, threads: int
) -> None:
    """Simulate, build a warehouse, train and evaluate, unless the result exists.

    Raises:
        StepError: A step failed.
    """
    metrics = folder / "metrics.json"
    if metrics.exists():
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    captures, warehouses = folder / "captures", folder / "tensor_warehouse"
    shutil.rmtree(warehouses, ignore_errors=True)  # of an interrupted call

    def haustra(command: str, *arguments: str | Path) -> None:
        run_logged(
            [sys.executable, "-m", "haustra", command, *arguments],
            log=folder / f"{command}.log",
            what=f"{name}: {command}",
            environment=environment,
        )

    haustra(
        "datagen",
        *("--preset", "still", *VARIANTS[name][1], "--size", str(SIZE), "--jobs", str(threads)),
        *("--runs", str(recipe.runs), "--frames", str(recipe.frames), "--seed", str(recipe.seed)),
        *("--output-root", captures, "--overwrite"),
    )
    haustra(
        "etl",
        *("--captures", captures, "--output-root", warehouses),
        *("--target-size", str(SIZE), "--split", "0.95,0.05,0"),
    )
    (manifest,) = warehouses.glob("v*/manifest.json")
    weights = folder / "detector.bin"
    haustra(
        "train",
        *("--manifest", manifest, "--model", recipe.model, "--seed", str(recipe.seed)),
        *("--epochs", str(recipe.epochs), "--val-every", str(recipe.epochs)),
        *("--checkpoint-out", weights, "--overwrite"),
    )
    haustra(
        "eval",
        *("--manifest", kvasir_manifest, "--split", "train", "--detector-weights", weights),
        *("--bootstrap", str(NUM_RESAMPLES), "--report", folder / "report"),
        *("--metrics-out", metrics),
    )
    shutil.rmtree(warehouses)  # large, and quickly rebuilt from the captures


def with_interval(metrics: dict[str, Any], name: str) -> str:
    """Return `value (low..high)` of an average precision as text."""
    value, ends = metrics["average_precision"][name], metrics["bootstrap"][name]
    return NOTHING if value is None else f"{value:.3f} ({ends[0]:.3f}..{ends[1]:.3f})"


def results_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of the table of `haustra eval --metrics-out` results by variant."""
    return markdown_table(
        ("simulated frames", "AP50 (95 % interval)", "AP50-95 (95 % interval)"),
        [
            (VARIANTS[name][0], with_interval(metrics, "ap50"), with_interval(metrics, "ap50_95"))
            for name, metrics in results.items()
        ],
    )


def measure_all(arguments: argparse.Namespace) -> list[str]:
    """Measure the variants without a result, print all results, and return the failed steps."""
    work = arguments.work.resolve()
    kvasir_manifest = build_manifest(arguments.data, work=work, size=SIZE)
    recipe = Recipe(
        runs=arguments.runs,
        frames=arguments.frames,
        epochs=arguments.epochs,
        model=arguments.model,
        seed=arguments.seed,
    )
    decisive = {
        "sources": digest_packages(PACKAGES),
        "kvasir": read_manifest(kvasir_manifest).version,
    }
    folders = {
        name: variant_folder(name, recipe=recipe, work=work, decisive=decisive)
        for name in arguments.variants
    }
    failures: list[str] = []

    def measure(name: str) -> None:
        try:
            if digest_packages(PACKAGES) != decisive["sources"]:
                raise StepError(f"{name}: haustra's sources changed while this ran; start again")
            measure_variant(
                name,
                recipe=recipe,
                folder=folders[name],
                kvasir_manifest=kvasir_manifest,
                threads=arguments.threads,
            )
        except StepError as error:
            say(f"FAILED: {error}")
            failures.append(str(error))

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(measure, folders))
    found = {name: folder / "metrics.json" for name, folder in folders.items()}
    results = {name: json.loads(p.read_text()) for name, p in found.items() if p.exists()}
    lines = [
        f"{recipe.model}det on Kvasir-SEG's training images after {recipe.epochs} epochs on "
        f"{recipe.runs} x {recipe.frames} simulated frames only, seed {recipe.seed}:",
        "",
        *results_table(results),
    ]
    text = "\n".join(lines) + "\n"
    write_text_atomic(work / "report.md", text=text)
    say("done")
    print(text)
    return failures


def _variants(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(VARIANTS)}")
    return names


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
        default=Path(".bench/sim_to_real"),
        help="folder for data and results",
    )
    parser.add_argument("--runs", type=int, default=60, help="simulated colons of each variant")
    parser.add_argument("--frames", type=int, default=20, help="frames of each colon")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training")
    parser.add_argument(
        "--model", choices=("tiny", "big"), default="tiny", help="detector to train"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first colon and of trainings"
    )
    parser.add_argument("--jobs", type=int, default=2, help="variants that run at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each variant")
    parser.add_argument(
        "--variants",
        type=_variants,
        default=list(VARIANTS),
        help=f"variants to measure, separated by commas: {','.join(VARIANTS)}",
    )
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    arguments = parse_arguments()
    if not (arguments.data / "images").is_dir() or not (arguments.data / "masks").is_dir():
        print(f"skipped: no Kvasir-SEG in {arguments.data} (expected its images/ and masks/)")
        return 0
    return 1 if measure_all(arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
