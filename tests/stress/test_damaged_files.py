"""Damaged checkpoints, states and ONNX files are refused in one line, or have the same effect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from damages import reading_of_damaged
from haustra.cli.main import main
from haustra.core.progress import SilentProgress
from haustra.exporting.config import ExportConfig
from haustra.exporting.stage import export_detector
from haustra.inference.detector import open_detector
from haustra.inference.onnx_detector import read_model
from haustra.models.checkpoint import header_to_json, read_checkpoint
from haustra.models.tensor_file import weights_digest
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.state import find_state, list_states
from scenes import write_warehouse

NUM_FILES = {"checkpoint": 200, "state": 150, "onnx": 150}
COMMAND_EVERY = 10
"""One damaged file in ten is also given to the command line."""

pytestmark = [pytest.mark.slow, pytest.mark.stress]


class StopInSecondEpoch(SilentProgress):
    def update(self, completed: float, *, note: str = "") -> None:
        if note.startswith("epoch 2"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train for two epochs with an interrupt in the second, and export the result."""
    folder = tmp_path_factory.mktemp("whole")
    manifest = write_warehouse(folder)
    checkpoint = folder / "tinydet.bin"
    config = TrainConfig(
        manifest=manifest, epochs=2, val_every=1, patience=2, checkpoint_out=checkpoint
    )
    with pytest.raises(KeyboardInterrupt):
        train_detector(config, progress=StopInSecondEpoch())
    (state,) = list_states(config.run_folder / "states")
    kept = state.rename(folder / state.name)
    train_detector(config)
    onnx = export_detector(ExportConfig(detector_weights=checkpoint)).path
    return {"checkpoint": checkpoint, "state": kept, "onnx": onnx}


def read_as_checkpoint(path: Path) -> Any:
    open_detector(path, backend="cpu")
    header, model = read_checkpoint(path)
    return header_to_json(header), weights_digest(model.state_dict())


def read_as_state(path: Path) -> Any:
    found = find_state(path.parent, progress=SilentProgress())
    assert found is not None
    fields = dict(vars(found[1]))
    return weights_digest(fields.pop("tensors")), fields


def read_as_onnx(path: Path) -> Any:
    open_detector(path, backend="cpu")
    return read_model(path)


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": read_as_checkpoint,
    "state": read_as_state,
    "onnx": read_as_onnx,
}


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_refused_in_one_line_or_have_the_same_effect(
    kind: str,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    original, read = files[kind], READERS[kind]
    expected = read(original)
    copy = tmp_path / original.name
    num_refused = 0
    for seed in range(NUM_FILES[kind]):
        damage, found = reading_of_damaged(original, copy=copy, seed=seed, read=read)
        assert found in (None, expected), damage
        num_refused += found is None
        if found is None and kind != "state" and seed % COMMAND_EVERY == 0:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(["info", str(copy)])
            error = capsys.readouterr().err
            assert (ended.value.code, error.count("\n")) == (2, 1), f"{damage}: {error}"
    record_property("refused", num_refused)
    assert num_refused > NUM_FILES[kind] * 0.9
