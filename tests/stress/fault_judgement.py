"""Seeded faults in a warehouse and in its ETL: each must be harmless, named or repaired.

The seed of a fault decides where and how a copy of a small warehouse is damaged. Then the steps of
a user follow: every split is read as training reads it (and after one fault in ten a detector is
trained for an epoch), `verify` runs, and `haustra warehouse repair` or `haustra etl` runs.

- *harmless*: training and evaluation see the same data as before, and there is no error.
- *named*: an error or a line of `verify` names the damaged file. The other splits are as before.
- *repaired*: in the end the warehouse has the same bytes as before the fault. Hidden folders that a
  killed ETL left do not count.
- *wrong data*: other data were read without an error. This must not happen.
- *unexpected*: a traceback, an error that does not name the file, or a warehouse that stays broken.
  This must not happen.

What a killed process has written reaches the disk; in a power cut it may not. Cut, zeroed and
missing files simulate that.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_kinds import KINDS, Injected
from fault_scene import Case, Scene, copied_case, observe, read_files

from haustra.core.errors import HaustraError
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.format import SPLIT_NAMES
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.verify import verify_warehouse


@dataclass(kw_only=True)
class Judgement:
    """Outcome of one fault."""

    kind: str
    seed: int
    text: str = ""
    messages: list[str] = field(default_factory=list)
    """Messages of reading, training and verifying, before any repair."""
    wrong: list[str] = field(default_factory=list)
    """Data that were read without an error and differ from before."""
    unexpected: list[str] = field(default_factory=list)
    repaired: bool = False
    trained: bool = False


def train(manifest: Path, *, folder: Path) -> dict[str, Any]:
    """Train TinyDet for an epoch, and return the parts of the checkpoint that depend on the data.

    Raises:
        HaustraError: The warehouse is damaged.
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
    """Repair the warehouse as the messages advise, and compare it with the golden one."""
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
    """Make one fault and follow the steps of a user after it.

    Args:
        scene: Scene to copy.
        kind: Kind of the fault.
        seed: Seed of the fault.
        folder: Empty folder for the copy.
        golden_training: Result of training on the undamaged warehouse; None skips the training.
    """
    judgement = Judgement(kind=kind, seed=seed)
    versions = KINDS[kind].versions
    try:
        with copied_case(scene, folder=folder, versions=versions, seed=seed) as case:
            injected = KINDS[kind].inject(case)
            judgement.text = injected.text
            judgement.messages += [injected.error] if injected.error else []
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
