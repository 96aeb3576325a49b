"""Pairs of trainings into one checkpoint, started together or in turn, some of them killed.

Afterwards the files belong to one of the two: the weights are those of a training that ran alone,
and settings, metrics and history are of the same training.
"""

import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from haustra.core.errors import HaustraError
from haustra.models.checkpoint import read_checkpoint
from haustra.models.tensor_file import weights_digest
from haustra.training.config import ONE_TIME_SETTINGS, TrainConfig
from haustra.training.loop import train_detector
from haustra.training.state import list_states
from scenes import write_warehouse

NUM_PAIRS = 100
PAIRS_PER_TEST = 25
SHARE_KILLED = 0.4
LONGEST_DELAY_S = 1.5
REFUSALS = (
    "another training writes it (process ",
    "holds a finished training with other settings: ",
    "holds an interrupted training with other settings: ",
)

pytestmark = [pytest.mark.slow, pytest.mark.stress]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["haustra.training.loop", "matplotlib.pyplot"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.fixture(scope="module")
def alone(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Return the digest of the weights of each seed's training, run alone."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        seed: train_detector(config_for(manifest, folder / str(seed), seed=seed)).weights_sha256
        for seed in (0, 1)
    }


def config_for(manifest: Path, checkpoint: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "val_every": 1, "save_every": "0.1s"}
    settings |= {"manifest": manifest, "checkpoint_out": checkpoint}
    return TrainConfig(**(settings | changes))


def work(config: TrainConfig, report: Path) -> None:
    """Train in this process; exit with 0, or 2 after a refusal."""
    try:
        train_detector(config)
    except HaustraError as error:
        report.write_text(str(error))
        sys.exit(2)


def start(config: TrainConfig, report: Path) -> BaseProcess:
    process = context.Process(target=work, args=(config, report))
    process.start()
    return process


def run_pair(rng: random.Random, *, manifest: Path, folder: Path) -> tuple[list[int], list[str]]:
    """Run a pair to its end, and return the exit codes and the refusals."""
    checkpoint = folder / "exp_v1.1"
    seeds = rng.choice([(0, 0), (0, 1), (1, 0)])
    changes: list[dict[str, Any]] = [{}, {"overwrite": True}, {"if_finished": "again"}]
    second = rng.choice(changes)
    configs = [
        config_for(manifest, checkpoint, seed=seeds[0]),
        config_for(manifest, checkpoint, seed=seeds[1], **second),
    ]
    reports = [folder / "first.txt", folder / "second.txt"]
    processes = [start(configs[0], reports[0])]
    time.sleep(rng.choice([0.0, rng.uniform(0, LONGEST_DELAY_S)]))
    processes.append(start(configs[1], reports[1]))
    if rng.random() < SHARE_KILLED:
        time.sleep(rng.uniform(0, LONGEST_DELAY_S))
        rng.choice(processes).kill()
    for process in processes:
        process.join()
    codes = [process.exitcode or 0 for process in processes]
    assert set(codes) <= {0, 2, -9}, codes
    refusals = [report.read_text() for report in reports if report.exists()]
    assert len(refusals) == codes.count(2)
    for refusal in refusals:
        assert any(text in refusal for text in REFUSALS), refusal
    if -9 in codes:
        finish(configs)
    else:
        assert 0 in codes, refusals
    return codes, refusals


def finish(configs: list[TrainConfig]) -> None:
    """Run the commands again, as a user does after a kill, until one of them has finished."""
    refusals = []
    for config in configs:
        try:
            train_detector(replace(config, overwrite=False, if_finished="skip"))
        except HaustraError as error:
            refusals.append(str(error))
        else:
            break
    assert len(refusals) < len(configs), refusals
    assert all(any(text in refusal for text in REFUSALS[1:]) for refusal in refusals), refusals


def check_files(checkpoint: Path, *, alone: dict[int, str]) -> None:
    """Check that all files are of one training."""
    header, model = read_checkpoint(checkpoint)
    assert header.is_finished
    seed = header.training["seed"]
    assert weights_digest(model.state_dict()) == header.weights_sha256 == alone[seed]
    folder = checkpoint.with_name(f"{checkpoint.name}.run")
    settings = json.loads((folder / "config.json").read_text())
    assert settings == {
        name: value for name, value in header.training.items() if name not in ONE_TIME_SETTINGS
    }
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == header.history
    assert list_states(folder / "states") == []
    assert not [path for path in folder.parent.glob("**/.*.*.*") if path.is_file()]


@pytest.mark.parametrize("part", range(NUM_PAIRS // PAIRS_PER_TEST))
def test_two_trainings_of_one_name_never_mix_their_files(
    part: int,
    manifest: Path,
    alone: dict[int, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    counts: Counter[str] = Counter()
    for pair in range(part * PAIRS_PER_TEST, (part + 1) * PAIRS_PER_TEST):
        folder = tmp_path / str(pair)
        folder.mkdir()
        codes, refusals = run_pair(random.Random(pair), manifest=manifest, folder=folder)
        check_files(folder / "exp_v1.1", alone=alone)
        counts.update(f"exit code {code}" for code in codes)
        counts.update(next(text for text in REFUSALS if text in refusal) for refusal in refusals)
    record_property("counts", dict(counts))
    assert counts[REFUSALS[0]], "no two of these trainings met"
