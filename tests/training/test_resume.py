"""A training that stops anywhere and is started again ends with the same bytes."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from haustra.core.errors import HaustraError
from haustra.core.interrupts import Interrupts
from haustra.core.outputs import _PROBE
from haustra.core.progress import SilentProgress
from haustra.models.checkpoint import read_checkpoint
from haustra.training.augment import augment_sample
from haustra.training.config import TrainConfig
from haustra.training.loop import TrainResult, train_detector
from haustra.training.state import list_states, read_state
from scenes import write_warehouse

TIMES = {"seconds", "images_per_s", "data_cpu", "stall"}


class StopAfter(SilentProgress):
    """Presses Ctrl-C after so many steps, and keeps the lines."""

    def __init__(self, num_steps: int) -> None:
        self.left = num_steps
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def update(self, completed: float, *, note: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


def config_for(manifest: Path, folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "manifest": manifest,
        "epochs": 3,
        "batch_size": 3,
        "val_every": 1,
        "checkpoint_out": folder / "detector.bin",
    }
    return TrainConfig(**(settings | changes))


def interrupt(config: TrainConfig, *, after: int) -> str:
    with pytest.raises(KeyboardInterrupt) as stop:
        train_detector(config, progress=StopAfter(after))
    return str(stop.value)


def without_times(result: TrainResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k not in TIMES} for e in result.header.history]


@pytest.mark.parametrize(
    ("model", "changes"),
    [("tiny", {}), ("tiny", {"accumulate": 2}), ("big", {}), ("tiny", {"patience": 3})],
)
def test_a_training_interrupted_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, manifest: Path, model: str, changes: dict[str, Any]
) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole", model=model, **changes))
    config = config_for(manifest, tmp_path / "stopped", model=model, **changes)
    steps_per_epoch = -(-7 // changes.get("accumulate", 1))
    # Within the first epoch, at its end, and within the second one.
    for after in (1, steps_per_epoch - 1, 2):
        interrupt(config, after=after)
    resumed = train_detector(config)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert without_times(resumed) == without_times(whole)
    assert resumed.validation == whole.validation
    lines = resumed.metrics_path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.header.history


def test_a_training_is_continued_from_its_last_saved_state(tmp_path: Path, manifest: Path) -> None:
    config = config_for(manifest, tmp_path)
    assert interrupt(config, after=4) == (
        f"interrupted after step 4 of 21, saved in {tmp_path}/detector.bin.run; the same command "
        "continues"
    )
    progress = StopAfter(0)
    train_detector(config, progress=progress)
    state = tmp_path / "detector.bin.run" / "states" / "state_00000004.safetensors"
    assert progress.lines[0] == f"continuing the interrupted training of {state}"
    assert progress.lines[2] == "4 of 21 steps are done"
    assert not state.parent.exists(), "a training that is done needs no state"


def test_the_last_two_states_are_kept_and_a_damaged_one_is_not_used(
    tmp_path: Path, manifest: Path
) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    config = config_for(manifest, tmp_path, save_every="0.000001s")
    interrupt(config, after=4)
    newest, before = list_states(tmp_path / "detector.bin.run" / "states")
    assert (newest.name, before.name) == (
        "state_00000004.safetensors",
        "state_00000003.safetensors",
    )
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    progress = StopAfter(0)
    assert train_detector(config, progress=progress).weights_sha256 == whole.weights_sha256
    assert progress.lines[0] == (
        f"{newest} is damaged (its weights do not have the SHA-256 in 'weights_sha256'); "
        "continuing from state_00000003.safetensors, the one before"
    )


def test_when_all_states_are_damaged_nothing_starts_again_by_itself(
    tmp_path: Path, manifest: Path
) -> None:
    config = config_for(manifest, tmp_path)
    interrupt(config, after=2)
    (state,) = list_states(tmp_path / "detector.bin.run" / "states")
    state.write_bytes(b"junk")
    message = rf"^{state} is damaged \(.*\), as are all states in .*; use overwrite=True to"
    with pytest.raises(HaustraError, match=message):
        train_detector(config)
    train_detector(config_for(manifest, tmp_path, overwrite=True))


def test_other_settings_are_named_and_overwrite_starts_again(
    tmp_path: Path, manifest: Path
) -> None:
    interrupt(config_for(manifest, tmp_path), after=2)
    other = {"seed": 1, "batch_size": 4, "store": "memory", "log_interval": 1}
    with pytest.raises(HaustraError) as error:
        train_detector(config_for(manifest, tmp_path, **other))
    assert str(error.value) == (
        f"{tmp_path}/detector.bin.run holds an interrupted training with other settings: "
        "batch_size=3 (now 4), seed=0 (now 1); give its settings to continue it, or "
        "overwrite=True to start again"
    )
    fresh = train_detector(config_for(manifest, tmp_path, **other, overwrite=True))
    assert len(fresh.header.history) == 3


def test_another_warehouse_is_another_training(tmp_path: Path, manifest: Path) -> None:
    interrupt(config_for(manifest, tmp_path), after=2)
    other = write_warehouse(tmp_path / "other", frames_per_run=5)
    with pytest.raises(HaustraError, match=r"with other settings: warehouse v\w+ \(now v\w+\); "):
        train_detector(config_for(other, tmp_path))


def test_settings_that_do_not_decide_the_weights_may_change(tmp_path: Path, manifest: Path) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    interrupt(config_for(manifest, tmp_path), after=5)
    resumed = train_detector(
        config_for(manifest.parent, tmp_path, store="memory", save_every="1s", resume=True)
    )
    assert resumed.weights_sha256 == whole.weights_sha256


def test_resume_without_an_interrupted_training_is_an_error(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(HaustraError) as error:
        train_detector(config_for(manifest, tmp_path, resume=True))
    assert str(error.value) == (
        f"resume=True: {tmp_path}/detector.bin.run holds no interrupted training; leave resume "
        "out to start one"
    )
    assert not (tmp_path / "detector.bin.run").exists()


def test_a_state_continues_without_the_weights_that_the_training_began_from(
    tmp_path: Path, manifest: Path
) -> None:
    first = train_detector(config_for(manifest, tmp_path / "first", epochs=1)).checkpoint
    whole = train_detector(config_for(manifest, tmp_path / "whole", init_from=first))
    config = config_for(manifest, tmp_path, init_from=first)
    interrupt(config, after=3)
    first.unlink()
    resumed = train_detector(config)
    assert resumed.weights_sha256 == whole.weights_sha256
    initial = json.loads((resumed.run_folder / "environment.json").read_text())["initial_weights"]
    assert initial == resumed.header.initial_weights == whole.header.initial_weights


def test_the_first_weights_of_a_training_are_known_by_content_not_by_name(
    tmp_path: Path, manifest: Path
) -> None:
    first = train_detector(config_for(manifest, tmp_path / "first", epochs=1)).checkpoint
    interrupt(config_for(manifest, tmp_path, init_from=first), after=3)
    moved = first.rename(tmp_path / "moved.bin")
    interrupt(config_for(manifest, tmp_path, init_from=moved), after=1)
    train_detector(config_for(manifest, first.parent, epochs=1, seed=1, checkpoint_out=first))
    with pytest.raises(HaustraError, match=r"other settings: init_from='[0-9a-f]{64}' \(now "):
        train_detector(config_for(manifest, tmp_path, init_from=first))


def test_a_time_budget_counts_what_was_trained_before(tmp_path: Path, manifest: Path) -> None:
    config = config_for(manifest, tmp_path, epochs=None, time_budget="3s", val_every=1000)
    interrupt(config, after=5)
    before = read_state(list_states(tmp_path / "detector.bin.run" / "states")[0]).position.trained_s
    started = time.monotonic()
    result = train_detector(config)
    assert before > 0
    assert 3 <= result.seconds < before + (time.monotonic() - started)


def test_a_signal_waits_for_the_end_of_a_step_and_a_second_one_does_not() -> None:
    done = []

    def take_step(interrupts: Interrupts, *signals: int) -> None:
        with interrupts.deferred():
            for number in signals:
                signal.raise_signal(number)
            done.append(signals)

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            take_step(interrupts, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            take_step(interrupts, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
    assert done == [(signal.SIGTERM,)]


def test_a_program_under_nohup_goes_on_when_its_terminal_is_closed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Full:
    """A disk on which the files whose name holds a text find no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, text: str) -> None:
        write_bytes = Path.write_bytes

        def write(path: Path, data: bytes) -> int:
            if text in path.name and len(data) > len(_PROBE):  # after the check of the outputs
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_bytes(path, data)

        monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize(("text", "file"), [("state_", "state_"), ("detector.bin", "detector.bin")])
def test_a_full_disk_names_the_file_and_the_last_checkpoint_loads(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, text: str, file: str
) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    config = config_for(manifest, tmp_path, save_every="0.000001s")
    interrupt(config, after=8)  # the first epoch has left a checkpoint
    with monkeypatch.context() as patch:
        Full(patch, text=text)
        with pytest.raises(OSError, match="No space left") as error:
            train_detector(config)
        assert file in error.value.filename
    read_checkpoint(config.checkpoint_path)
    assert train_detector(config).weights_sha256 == whole.weights_sha256


def test_a_lost_shard_is_named_and_finished_steps_are_saved(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    config = config_for(manifest, tmp_path, store="stream")
    interrupt(config, after=8)  # the first epoch has left a checkpoint
    shards = manifest.parent / "shards"
    shards.rename(tmp_path / "elsewhere")
    with pytest.raises(HaustraError, match=r"shards/\w+\.safetensors is gone"):
        train_detector(config)
    read_checkpoint(config.checkpoint_path)
    (tmp_path / "elsewhere").rename(shards)
    assert train_detector(config).weights_sha256 == whole.weights_sha256


def test_a_failing_worker_stops_the_training_after_saving(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    config = config_for(manifest, tmp_path)
    calls = []

    def failing(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) > 25:
            raise MemoryError
        return augment_sample(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("haustra.training.batches.augment_sample", failing)
        with pytest.raises(HaustraError, match=r"^out of memory with batch_size=3 at 64x64; "):
            train_detector(config)
    (state, *_) = list_states(config.run_folder / "states")
    assert read_state(state).position.epoch >= 1
    assert train_detector(config).weights_sha256 == whole.weights_sha256


def test_half_written_states_of_killed_processes_are_removed(
    tmp_path: Path, manifest: Path
) -> None:
    config = config_for(manifest, tmp_path)
    interrupt(config, after=2)
    folder = config.run_folder / "states"
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        check=True,
        capture_output=True,
        text=True,
    )
    left = folder / f".state_00000009.safetensors.{process.stdout.strip()}.abcd1234"
    left.write_bytes(b"half")
    interrupt(config, after=1)
    assert not left.exists()


def test_a_second_training_into_one_checkpoint_is_refused_and_the_first_goes_on(
    tmp_path: Path, manifest: Path
) -> None:
    config = config_for(manifest, tmp_path, save_every="0.000001s")
    messages: list[str] = []

    class Intruder(SilentProgress):
        def update(self, completed: float, *, note: str = "") -> None:
            if not messages:
                for other in (config, config_for(manifest, tmp_path, overwrite=True, model="big")):
                    with pytest.raises(HaustraError) as refused:
                        train_detector(other)
                    messages.append(str(refused.value))

    result = train_detector(config, progress=Intruder())
    whole = train_detector(config_for(manifest, tmp_path / "whole"))
    assert result.weights_sha256 == whole.weights_sha256
    assert len(messages) == 2
    for message in messages:
        assert re.fullmatch(
            rf"checkpoint_out='{tmp_path}/detector.bin': another training writes it \(process "
            rf"{os.getpid()} on host \S+, since [^)]+\); wait for its end, stop it, or choose "
            "another name",
            message,
        )


def start(manifest: Path, folder: Path, *, model: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-c", "from haustra.cli.main import main; main()"),
        *("train", "--manifest", str(manifest), "--model", model, "--epochs", "3"),
        *("--batch-size", "3", "--val-every", "1", "--save-every", "0.01s"),
        *("--checkpoint-out", str(folder / "detector.bin"), "--log-interval", "1"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step}:"):
            return
    raise AssertionError(f"step {step} never came")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "big"])
def test_a_killed_training_ends_with_the_same_bytes(
    tmp_path: Path, manifest: Path, model: str
) -> None:
    whole = train_detector(config_for(manifest, tmp_path / "whole", model=model))
    for step in (2, 7, 11):
        process = start(manifest, tmp_path, model=model)
        wait_for_step(process, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    resumed = train_detector(config_for(manifest, tmp_path, model=model))
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_130_with_one_line(
    tmp_path: Path, manifest: Path, number: int
) -> None:
    process = start(manifest, tmp_path, model="tiny")
    wait_for_step(process, 4)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    (state, *_) = list_states(tmp_path / "detector.bin.run" / "states")
    step = int(state.stem.removeprefix("state_"))
    assert said == (
        f"haustra: interrupted after step {step} of 21, saved in {tmp_path}/detector.bin.run; the "
        "same command continues\n"
    )
    assert step >= 4


@pytest.mark.slow
def test_the_random_state_is_part_of_a_state(tmp_path: Path, manifest: Path) -> None:
    config = config_for(manifest, tmp_path)
    interrupt(config, after=2)
    (path,) = list_states(config.run_folder / "states")
    assert torch.equal(read_state(path).tensors["random.torch"], torch.get_rng_state())
