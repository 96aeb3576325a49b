import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import files_in
from haustra.core.checked import CheckedSettings, OutputFile, OutputFolder
from haustra.core.errors import HaustraError
from haustra.core.outputs import check_outputs


@dataclass(frozen=True, kw_only=True)
class Settings(CheckedSettings):
    weights: Path | None = None
    pair: tuple[Path, Path] | None = None
    metrics_out: OutputFile | None = None
    log: OutputFile | None = None
    report: OutputFolder | None = None


def message_for(**paths: object) -> str:
    with pytest.raises(HaustraError) as caught:
        check_outputs(Settings(**paths))  # type: ignore[arg-type]
    return caught.value.for_command_line()


def test_new_and_existing_outputs_pass_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "report").mkdir()
    before = tmp_path.stat().st_mtime_ns
    check_outputs(Settings(metrics_out=tmp_path / "old.json", report=tmp_path / "report"))
    check_outputs(Settings(metrics_out=tmp_path / "a/b/new.json", report=tmp_path / "c/../d"))
    assert tmp_path.stat().st_mtime_ns == before
    assert files_in(tmp_path) == {"old.json": b"{}"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "report"]


def test_a_folder_where_a_file_goes_and_a_file_where_a_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert message_for(metrics_out=tmp_path) == (
        f"--metrics-out {tmp_path} is a folder; expected a file name"
    )
    assert message_for(report=tmp_path / "file") == (
        f"--report {tmp_path}/file is a file; expected a folder"
    )


@pytest.mark.parametrize("name", ["metrics_out", "report"])
@pytest.mark.parametrize("below", ["x", "x/y/z"])
def test_a_file_as_a_parent(tmp_path: Path, name: str, below: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for parent in ("file", "dangling"):
        text = message_for(**{name: tmp_path / parent / below})
        assert f"cannot be written: {tmp_path / parent} is not a folder" in text


@pytest.mark.parametrize("path", ["n" * 300, "n" * 245, "new/" + "é" * 130 + "/x", "zero\0byte"])
def test_a_name_that_no_file_can_have(tmp_path: Path, path: str) -> None:
    assert "cannot be written: " in message_for(metrics_out=tmp_path / path)
    assert files_in(tmp_path) == {}


def test_a_device_is_not_replaced() -> None:
    assert message_for(metrics_out="/dev/null").startswith("--metrics-out /dev/null is a device")


def test_a_place_that_only_looks_writable() -> None:
    assert "--metrics-out /proc/x.json cannot be written: " in message_for(
        metrics_out="/proc/x.json"
    )


def test_a_write_protected_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept.json").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    assert "is write-protected" in message_for(metrics_out=tmp_path / "kept.json")


def test_a_full_disk_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left on device; choose another place or make room there" in message_for(
        report=tmp_path / "report"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["a.json", "a.json/report", "../here/a.json"])
def test_two_outputs_of_one_path(tmp_path: Path, other: str) -> None:
    place = tmp_path / "here"
    place.mkdir()
    name = "report" if "report" in other else "log"
    assert "expected two places" in message_for(
        **{"metrics_out": place / "a.json", name: place / other}
    )


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    weights, other = tmp_path / "tiny.bin", tmp_path / "other.bin"
    weights.write_text("")
    other.hardlink_to(weights)
    (tmp_path / "manifest.json").write_text("{}")
    for inputs in ({"weights": weights}, {"pair": (tmp_path / "b.bin", weights)}):
        assert "which is only read; expected another file" in message_for(
            metrics_out=other, **inputs
        )
    assert "is also --weights" in message_for(
        metrics_out=tmp_path / "manifest.json", weights=tmp_path
    )
