"""`haustra import --group-by similar`, and the note that advises it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import files_in
from haustra.captures.importers import similar
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.paired import import_yolo
from haustra.captures.reader import read_run
from haustra.cli.main import main
from haustra.core.images import encode_jpeg, encode_png


def scene(seed: int, *, by_px: int = 0) -> NDArray[np.uint8]:
    """A picture of soft blobs, seen from a camera that moves sideways."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 16, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (300, 96), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[:, by_px : by_px + 120], dtype=np.uint8)


def write_sequences(root: Path, *, num_stills: int = 3) -> Path:
    """Two sequences whose names have no padding, one as JPEG, and some stills; all with a box."""
    for number in range(1, 13):
        write(root, f"frame{number}.jpg", encode_jpeg(scene(1, by_px=2 * number)))
        write(root, f"frame{number + 12}.png", encode_png(scene(2, by_px=2 * number)))
    for number in range(num_stills):
        write(root, f"still{number}.png", encode_png(scene(100 + number)))
    return root


def write(root: Path, name: str, data: bytes) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "images" / name).write_bytes(data)
    (root / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")


def run_import(root: Path, **settings: Any) -> ImportResult:
    config = ImportConfig(output_root=root / "captures", overwrite=True, **settings)
    return import_yolo(root / "images", root / "labels", config=config)


def groups_of(result: ImportResult) -> dict[str, str]:
    names = {}
    for frame in read_run(result.folder).frames:
        assert frame.label is not None
        names[str(frame.label.source_name).partition(".")[0]] = frame.group_id
    return names


def test_images_that_look_alike_are_noted_and_stay_groups_of_their_own(tmp_path: Path) -> None:
    result = run_import(write_sequences(tmp_path))
    assert result.notes == [
        "24 images look alike, in 2 groups that splits may cut; --group-by similar keeps each whole"
    ]
    assert groups_of(result) == {name: name for name in groups_of(result)}
    stored = json.loads((result.folder / "run_manifest.json").read_text())["import_result"]
    assert (stored["similar_images"], stored["notes"]) == (24, result.notes)


def test_images_that_look_alike_become_one_group_named_after_the_first(tmp_path: Path) -> None:
    plain = run_import(write_sequences(tmp_path))
    before = files_in(plain.folder / "labels")
    result = run_import(tmp_path, group_by="similar")
    assert result.notes == ["24 images look alike: they became 2 groups"]
    expected = {f"frame{n}": "frame1" if n <= 12 else "frame13" for n in range(1, 25)}
    assert groups_of(result) == expected | {f"still{n}": f"still{n}" for n in range(3)}
    after = files_in(result.folder / "labels")
    for name, data in before.items():  # nothing but the group differs
        assert json.loads(after[name]) | {"group_id": None} == json.loads(data) | {"group_id": None}
    run_import(tmp_path, group_by="similar")
    assert files_in(result.folder / "labels") == after


def test_groups_that_are_stated_are_not_compared_but_merged_on_request(tmp_path: Path) -> None:
    """The pattern cuts both sequences into tens of frames."""
    pattern = r"^(\D+\d)"
    stated = run_import(write_sequences(tmp_path), group_regex=pattern)
    assert (stated.notes, stated.num_similar) == ([], 0)
    assert run_import(tmp_path, group="ward 3").notes == []
    merged = run_import(tmp_path, group_regex=pattern, group_by="similar")
    # frame1, frame10 to frame19 are one stated group, which holds frames of both sequences.
    assert set(groups_of(merged).values()) == {"frame1", "still0", "still1", "still2"}


def test_unrelated_images_give_no_note(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path, f"{number}.png", encode_png(scene(number)))
    for settings in ({}, {"group_by": "similar"}):
        result = run_import(tmp_path, **settings)
        assert (result.notes, result.num_similar) == ([], 0)
        assert len(set(groups_of(result).values())) == 20


def test_a_note_on_very_many_images_says_that_only_neighbors_were_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sequences(tmp_path)
    write(root, "zz.png", encode_png(scene(1, by_px=2)))  # a copy that is no neighbor
    monkeypatch.setattr(similar, "MAX_NOTED", 10)
    (note,) = run_import(root).notes
    assert note.startswith("24 images look alike, in 2 groups")
    assert note.endswith("; only neighbors were compared")
    assert groups_of(run_import(root, group_by="similar"))["zz"] == "frame1"


def test_the_command_takes_the_setting_and_refuses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_sequences(tmp_path)
    command = ["import", "yolo", str(root / "images"), str(root / "labels")]
    command += ["--output-root", str(root / "captures"), "--group-by"]
    main([*command, "similar"])
    assert "24 images look alike: they became 2 groups" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*command, "color"])
    assert "similar" in capsys.readouterr().err
