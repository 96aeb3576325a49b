"""The same command after the end of a training, and another one into its checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.core.locks import locked_folder
from haustra.core.operating_point import OperatingPoint
from haustra.core.paths import run_folder_of
from haustra.core.progress import SilentProgress
from haustra.inference.checkpoint_detector import store_operating_point
from haustra.training.config import TrainConfig
from haustra.training.loop import TrainResult, train_detector
from scenes import write_warehouse


class Lines(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


def config_for(manifest: Path, folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 3, "val_every": 1}
    settings |= {"manifest": manifest, "checkpoint_out": folder / "exp_lr0.001"}
    return TrainConfig(**(settings | changes))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_detector(config_for(manifest, tmp_path_factory.mktemp("finished")))


def test_the_same_command_after_the_end_gives_the_same_result_and_changes_nothing(
    manifest: Path, finished: TrainResult
) -> None:
    folder = finished.checkpoint.parent
    before, progress = contents(folder), Lines()
    for changes in ({}, {"resume": True}, {"log_interval": 1, "store": "memory"}):
        found = train_detector(config_for(manifest, folder, **changes), progress=progress)
        assert found == finished
    assert contents(folder) == before
    assert progress.lines == 3 * [
        f"{folder}/exp_lr0.001 holds the finished training of these settings; `haustra "
        "train --if-finished again` trains again"
    ]


def test_if_finished_error_refuses_the_same_command(manifest: Path, finished: TrainResult) -> None:
    folder = finished.checkpoint.parent
    before = contents(folder)
    with pytest.raises(HaustraError) as refused:
        train_detector(config_for(manifest, folder, if_finished="error"))
    assert refused.value.for_command_line() == (
        f"--checkpoint-out {folder}/exp_lr0.001 holds the finished training of these settings; "
        "choose another name, or --if-finished again to train again"
    )
    assert contents(folder) == before


def test_other_settings_do_not_replace_a_finished_training(
    manifest: Path, finished: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.checkpoint.parent
    before = contents(folder)
    out = str(folder / "exp_lr0.001")
    flags = ("--epochs", "3", "--batch-size", "3", "--val-every", "1", "--seed", "4")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--manifest", str(manifest), "--checkpoint-out", out, *flags])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"haustra: --checkpoint-out {out} holds a finished training with other settings: --epochs "
        "2 (now 3), --seed 0 (now 4); choose another name, or --if-finished again to replace it"
    )
    assert contents(folder) == before


def test_again_and_overwrite_train_again_to_the_same_weights(
    manifest: Path, tmp_path: Path
) -> None:
    first = train_detector(config_for(manifest, tmp_path))
    stamp = first.checkpoint.stat().st_mtime_ns
    for changes in ({"if_finished": "again"}, {"overwrite": True}):
        again = train_detector(config_for(manifest, tmp_path, **changes))
        assert again.weights_sha256 == first.weights_sha256
        assert again.checkpoint.stat().st_mtime_ns > stamp
        stamp = again.checkpoint.stat().st_mtime_ns
    other = train_detector(config_for(manifest, tmp_path, if_finished="again", seed=1))
    assert other.weights_sha256 != first.weights_sha256


def test_an_interrupted_repetition_is_continued(manifest: Path, tmp_path: Path) -> None:
    first = train_detector(config_for(manifest, tmp_path))

    class Stop(Lines):
        def update(self, completed: float, *, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_detector(config_for(manifest, tmp_path, if_finished="again"), progress=Stop())
    progress = Lines()
    found = train_detector(config_for(manifest, tmp_path), progress=progress)
    assert found.weights_sha256 == first.weights_sha256
    assert progress.lines[0].startswith("continuing the interrupted training of ")


def test_a_fitted_operating_point_is_not_lost_by_the_same_command(
    manifest: Path, tmp_path: Path
) -> None:
    first = train_detector(config_for(manifest, tmp_path))
    store_operating_point(first.checkpoint, OperatingPoint(objectness=0.7))
    found = train_detector(config_for(manifest, tmp_path))
    assert found.header.operating_point.objectness == 0.7
    assert found.weights_sha256 == first.weights_sha256


def test_a_running_training_keeps_its_checkpoint_to_itself(manifest: Path, tmp_path: Path) -> None:
    path = train_detector(config_for(manifest, tmp_path)).checkpoint
    before = path.read_bytes()
    with locked_folder(run_folder_of(path)), pytest.raises(HaustraError) as refused:
        store_operating_point(path, OperatingPoint(objectness=0.7))
    assert str(refused.value).startswith(f"{path} is being trained (process {os.getpid()} on ")
    assert str(refused.value).endswith("; fit it after the end of the training")
    assert path.read_bytes() == before


def test_a_finished_training_with_damaged_weights_is_not_taken_for_one(
    manifest: Path, tmp_path: Path
) -> None:
    path = train_detector(config_for(manifest, tmp_path)).checkpoint
    data = bytearray(path.read_bytes())
    data[-5000:-1000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(HaustraError, match="its weights do not have the SHA-256"):
        train_detector(config_for(manifest, tmp_path))
    train_detector(config_for(manifest, tmp_path, if_finished="again"))


def test_the_command_line_reports_a_finished_training_as_a_new_one(
    manifest: Path, finished: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(finished.checkpoint)
    flags = ("--epochs", "2", "--batch-size", "3", "--val-every", "1", "--json")
    main(["train", "--manifest", str(manifest), "--checkpoint-out", out, *flags])
    value = json.loads(capsys.readouterr().out)
    assert value["weights_sha256"] == finished.weights_sha256
    assert value["validation"] == (finished.validation and finished.validation.to_json())
