"""Paths at the command line: outputs are checked before inputs, and `~` is the home folder."""

import shutil
from pathlib import Path

import pytest

from builders import write_run
from haustra.cli.main import main

MANIFEST = "--manifest nowhere/manifest.json"
WEIGHTS = "--detector-weights nowhere.bin"
FILES = [
    f"train {MANIFEST} --checkpoint-out",
    f"train {MANIFEST} --metrics-out",
    f"train {MANIFEST} --status-file",
    f"eval {MANIFEST} {WEIGHTS} --metrics-out",
    f"eval {MANIFEST} {WEIGHTS} --predictions-out",
    f"eval {MANIFEST} --compare a.bin b.bin --metrics-out",
    "infer --video nowhere.mp4 --out",
    f"export {WEIGHTS} --out",
    "warehouse export nowhere --out",
]
FOLDERS = [
    "datagen --output-root",
    "prune --captures nowhere --output-root",
    "etl --captures nowhere --output-root",
    "overlay run_1 --output-root",
    "import masks run_1/images masks --output-root",
    "infer --image run_1 --output-root",
    "convert run_1 --to coco --output-root",
    f"train {MANIFEST} --tensorboard",
    f"train {MANIFEST} --store stream --cache-dir",
    f"eval {MANIFEST} {WEIGHTS} --report",
    "view --source nowhere --headless --output-root",
    "view --source nowhere --record --output-root",
]


INPUTS = [
    "datagen --mesh",
    "prune --captures",
    "etl --captures",
    "etl --captures run_1 --split-file",
    "overlay",
    "import masks run_1/images",
    "import coco run_1/images",
    "convert --to coco --output-root out",
    "infer --image",
    "infer --video",
    "infer --image run_1 --detector-weights",
    "train --config",
    "train --manifest",
    "train --manifest x --recipe",
    "eval --captures run_1 --detector-weights",
    "eval --detector-weights found.json --captures",
    f"eval {MANIFEST} --compare found.json",
    "export --detector-weights",
    "info",
    "warehouse verify",
]


def fail(command: str, path: Path | str, *, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), str(path)])
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out, shown.err.count("\n")) == (2, "", 1), shown
    return shown.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "run_1", [(2, 2, 12, 12)])
    (tmp_path / "file").write_text("")
    (tmp_path / "bad").mkdir()
    shutil.copytree(tmp_path / "run_1/images", tmp_path / "masks")
    return tmp_path / "bad"


def name_for(command: str, name: str) -> str:
    flag = command.split()[-1]
    known = {"--predictions-out": ".json", "--checkpoint-out": ".bin"}
    if flag == "--out":
        return name + {"infer": ".mp4", "export": ".onnx", "warehouse": ".csv"}[command.split()[0]]
    return name + known.get(flag, "")


@pytest.mark.parametrize("command", FILES)
def test_a_file_cannot_be_a_folder(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / name_for(command, "x")
    folder.mkdir()
    home = f"~/{folder.relative_to(place.parent)}"
    assert f"{folder} is a folder; expected a file name" in fail(command, home, capsys=capsys)
    assert f"{folder} is a folder; expected a file name" in fail(command, folder, capsys=capsys)


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_cannot_be_a_file(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.parent / "file"
    assert f"{file} is a file; expected a folder" in fail(command, file, capsys=capsys)


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
@pytest.mark.parametrize("parent", ["file", "n" * 300])
def test_a_parent_must_be_a_folder_and_every_name_possible(
    command: str, parent: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.parent / parent / name_for(command, "x")
    assert "cannot be written: " in fail(command, path, capsys=capsys)


@pytest.mark.parametrize("command", INPUTS)
def test_the_home_folder_is_found(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.parent / "found.json").write_text("[]")
    assert f"{place.parent}/nowhere" in fail(command, "~/nowhere", capsys=capsys)


def test_the_home_folder_is_found_as_source_and_output(place: Path) -> None:
    main(["view", "--headless", "--source", "~/run_1", "--output-root", "~/a"])
    main(["infer", "--image", "~/run_1", "--output-root", "~/b"])
    assert {path.name for path in place.parent.iterdir()} == {
        *("run_1", "file", "bad", "masks"),
        *("a", "b"),
    }
