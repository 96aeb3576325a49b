"""Seeded faults in a warehouse and in its ETL: each must be harmless, named or repaired.

    python benchmarks/faults.py
    python benchmarks/faults.py --faults 20 --only "manifest edited" --details

Each fault has a seed, which draws where and how a copy of a small warehouse is damaged. Then what a
user would do is done: every split is read as training reads it (and in one fault of ten a detector
is trained for an epoch), `verify` is asked, and `haustra warehouse repair` or `haustra etl` is run.

- *harmless*: all that training and evaluation see is as before, and nobody complains.
- *named*: an error or a line of `verify` names the file that is wrong. What the other splits give
  is as before.
- *repaired*: of the harmless and the named, those whose warehouse is in the end what it was before,
  to the byte. Hidden folders that a killed ETL left do not count.
- *wrong data*: something else was read, and no error said so. None may be.
- *unexpected*: a traceback, an error that does not name the file, or a warehouse that stays broken.
  None may be.

A killed process leaves to the disk what it has written; a power cut does not. What a power cut does
to files is simulated by the cut, zeroed and missing ones.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_kinds import KINDS, Injected
from fault_scene import Case, Scene, build_scene, copied_case, observe, read_files
from haustra.core.errors import HaustraError
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.format import SPLIT_NAMES
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.verify import verify_warehouse

OUTCOMES = ("harmless", "named", "repaired", "wrong data", "unexpected")
TRAIN_EVERY = 10
"""One fault of so many is also trained on."""


@dataclass(kw_only=True)
class Judgement:
    """What became of one fault."""

    kind: str
    seed: int
    text: str = ""
    messages: list[str] = field(default_factory=list)
    """What was said by reading, training and verifying, before any repair."""
    wrong: list[str] = field(default_factory=list)
    """What was read that is not as before, without an error."""
    unexpected: list[str] = field(default_factory=list)
    repaired: bool = False
    trained: bool = False

    @property
    def outcomes(self) -> set[str]:
        """The columns of the table that this fault counts in."""
        if self.unexpected or self.wrong:
            names = {"unexpected": self.unexpected, "wrong data": self.wrong}
            return {name for name, found in names.items() if found}
        return {"named" if self.messages else "harmless"} | (
            {"repaired"} if self.repaired else set()
        )


def train(manifest: Path, *, folder: Path) -> dict[str, Any]:
    """Train TinyDet for an epoch, and return all of the checkpoint that depends on the data.

    Raises:
        HaustraError: the warehouse is damaged, and says so.
    """
    result = train_detector(
        TrainConfig(
            manifest=manifest, model="tiny", epochs=1, checkpoint_out=folder / "tinydet.bin"
        )
    )
    header = result.header
    return {
        "weights": result.weights_sha256,
        "warehouse version": header.warehouse_version,
        "class names": header.class_names,
        "sources": header.sources,
        "preprocessing": (header.input_size_wh, header.resize_mode),
        "validation": header.history[-1].get("val"),
    }


def _differences(found: dict[str, Any], golden: dict[str, Any], *, of: str) -> list[str]:
    return [f"{of}: other {name}" for name in golden if found[name] != golden[name]]


def _say_or(judgement: Judgement, work: Callable[[], list[str]]) -> None:
    """Note what `work` finds wrong, or the error that it names."""
    try:
        judgement.wrong += work()
    except HaustraError as error:
        judgement.messages.append(str(error))


def _read(case: Case, judgement: Judgement, *, golden_training: dict[str, Any] | None) -> None:
    scene = case.scene
    for split in SPLIT_NAMES:
        _say_or(
            judgement,
            lambda split=split: _differences(  # type: ignore[misc]
                observe(case.manifest, split=split), scene.observed[split], of=split
            ),
        )
    if golden_training is not None:
        judgement.trained = True
        folder = case.root.parent
        _say_or(
            judgement,
            lambda: _differences(
                train(case.manifest, folder=folder), golden_training, of="training"
            ),
        )


def _repair(case: Case, injected: Injected, judgement: Judgement) -> None:
    """Do what the messages tell to do, and compare the warehouse with the golden one."""
    scene = case.scene
    if injected.builds_second:
        build_warehouse(case.second_config)  # may take shards of the damaged first version
    if case.rng.random() < 0.5:
        try:
            repair_warehouse(case.manifest, captures=scene.captures)
        except HaustraError as error:
            judgement.text += f"; repair: {error}" if case.manifest.exists() else ""
    names = [scene.first]
    build_warehouse(case.config)
    if (case.root / scene.second).exists():
        names.append(scene.second)
        build_warehouse(case.second_config)
    found = {
        name: data
        for name, data in read_files(case.root).items()
        if name not in injected.leftovers and not name.startswith(".")
    }
    golden = {name: data for name, data in scene.golden.items() if name.split("/")[0] in names}
    judgement.repaired = found == golden
    for split in SPLIT_NAMES:
        judgement.wrong += _differences(
            observe(case.manifest, split=split), scene.observed[split], of=f"{split}, repaired"
        )
    second = f"{scene.second}/"
    judgement.wrong += [
        f"second version: other {name}"
        for name, data in golden.items()
        if name.startswith(second) and found.get(name) != data
    ]
    if not judgement.repaired and judgement.messages:
        others = sorted(name for name in found | golden if found.get(name) != golden.get(name))
        judgement.unexpected.append(f"after the repair other files: {', '.join(others[:4])}")


def judge(
    scene: Scene, *, kind: str, seed: int, folder: Path, golden_training: dict[str, Any] | None
) -> Judgement:
    """Do one fault and what a user would do after it.

    Args:
        scene: to copy.
        kind: of the fault.
        seed: of the fault.
        folder: an empty folder for the copy.
        golden_training: what training gives on the sound warehouse; None not to train.
    """
    judgement = Judgement(kind=kind, seed=seed)
    versions = KINDS[kind].versions
    try:
        with copied_case(scene, folder=folder, versions=versions, seed=seed) as case:
            injected = KINDS[kind].inject(case)
            judgement.text = injected.text
            judgement.messages += [injected.said] if injected.said else []
            _read(case, judgement, golden_training=golden_training)
            _say_or(judgement, lambda: _verify(case, judgement))
            files = (*injected.files, *(("manifest.json",) if not case.manifest.exists() else ()))
            if judgement.messages and not any(
                name in message for name in files for message in judgement.messages
            ):
                judgement.unexpected.append(f"none of {files} is named: {judgement.messages[0]}")
            _repair(case, injected, judgement)
    except Exception:  # noqa: BLE001 - the table counts tracebacks
        judgement.unexpected.append(traceback.format_exc())
    return judgement


def _verify(case: Case, judgement: Judgement) -> list[str]:
    judgement.messages += verify_warehouse(case.manifest).problems
    return []


def draw_kinds(num_faults: int, *, only: str | None) -> list[str]:
    """Return the kind of each fault: the kinds in turn, each as often as its weight."""
    rounds = max(kind.weight for kind in KINDS.values())
    turn = [name for done in range(rounds) for name, kind in KINDS.items() if kind.weight > done]
    if only is not None:
        turn = [only]
    return [turn[index % len(turn)] for index in range(num_faults)]


def run_faults(
    *, num_faults: int, first_seed: int, only: str | None, report: Callable[[Judgement], None]
) -> list[Judgement]:
    """Judge so many faults, each with the next seed."""
    judgements = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        scene = build_scene(work / "scene")
        golden_training = train(scene.root / scene.first, folder=work)
        for index, kind in enumerate(draw_kinds(num_faults, only=only)):
            judgement = judge(
                scene,
                kind=kind,
                seed=first_seed + index,
                folder=work / "case",
                golden_training=golden_training if index % TRAIN_EVERY == 0 else None,
            )
            report(judgement)
            judgements.append(judgement)
    return judgements


def result_table(judgements: Sequence[Judgement]) -> list[str]:
    """Return the lines of a Markdown table: a row per kind, and the sum."""
    header = ["kind of fault", "faults", *OUTCOMES]
    rows = []
    for kind in [*dict.fromkeys(judgement.kind for judgement in judgements), "all"]:
        members = [judgement for judgement in judgements if kind in (judgement.kind, "all")]
        counts = Counter(name for judgement in members for name in judgement.outcomes)
        rows.append([kind, str(len(members)), *(str(counts[name]) for name in OUTCOMES)])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| "
        + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in [header, *rows]
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def main() -> None:
    """Print the table; exit with 1 where wrong data were read or something unexpected came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faults", type=int, default=200, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first fault")
    parser.add_argument("--only", choices=KINDS, help="one kind of fault")
    parser.add_argument("--details", action="store_true", help="print a line per fault")
    arguments = parser.parse_args()

    def report(judgement: Judgement) -> None:
        if arguments.details or judgement.wrong or judgement.unexpected:
            head = f"seed {judgement.seed}, {judgement.kind}: {judgement.text}"
            print(f"{head}: {', '.join(sorted(judgement.outcomes))}", flush=True)
        for line in [*judgement.wrong, *judgement.unexpected]:
            print(f"    {line}", flush=True)
        if arguments.details:
            for line in judgement.messages[:3]:
                print(f"    {line}", flush=True)

    started = time.monotonic()
    judgements = run_faults(
        num_faults=arguments.faults,
        first_seed=arguments.first_seed,
        only=arguments.only,
        report=report,
    )
    print("\n".join(result_table(judgements)))
    num_trained = sum(judgement.trained for judgement in judgements)
    print(
        f"{len(judgements)} faults, {num_trained} of them also trained on, in "
        f"{time.monotonic() - started:.0f} s"
    )
    if any(judgement.wrong or judgement.unexpected for judgement in judgements):
        sys.exit(1)


if __name__ == "__main__":
    main()
