import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from builders import files_in, write_frame, write_image, write_json, write_run
from haustra.captures.prune import PruneConfig, PruneResult, prune_captures
from haustra.captures.reader import read_run, read_runs
from haustra.core.errors import HaustraError

BOX = [1, 2, 9, 9]


def prune(tmp_path: Path, **changes: Any) -> list[PruneResult]:
    settings = {"captures": tmp_path / "captures", "output_root": tmp_path / "filtered", **changes}
    return prune_captures(PruneConfig(**settings))


def prune_error(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(HaustraError) as caught:
        prune(tmp_path, **changes)
    return str(caught.value)


def kept_frames(root: Path) -> list[str]:
    return [frame.sample_id for run in read_runs(root) for frame in run.frames]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A capture root with a frame of every kind."""
    run = write_run(tmp_path / "captures/run_a", [BOX], [], run_id="a", dataset="D")
    write_frame(run, 2, boxes_px=[BOX])
    (run / "labels/frame_00002.json").write_text("{")
    write_frame(run, 3, boxes_px=[BOX])
    (run / "images/frame_00003.png").unlink()
    write_frame(run, 4, image_present=False)
    write_frame(run, 5, boxes_px=[BOX])
    (run / "images/frame_00005.png").write_text("text")
    for index in (6, 7):
        write_frame(run, index, boxes_px=[BOX], seed=1)
    other = write_run(tmp_path / "captures/run_b", [[1, 1, 2, 2]])
    write_frame(other, 1, boxes_px=[BOX], seed=1)
    write_image(other / "images/extra.png")
    return tmp_path


DROPPED_A = {
    "invalid": [
        "a/labels/frame_00002.json is not JSON (line 1: Expecting property name enclosed in "
        "double quotes); expected a frame label",
        "a/images/frame_00005.png is not an image (PNG, JPEG, BMP, TIFF or WebP)",
    ],
    "missing": ["a/images/frame_00003.png does not exist"],
    "without_image": ["a/frame_00004: the label says that no image was taken"],
    "duplicate": ["a/frame_00007 has the image of a/frame_00006"],
}
DROPPED_B = {
    "unlabelled": ["extra.png"],
    "duplicate": ["run_b/frame_00001 has the image of a/frame_00006"],
}


def test_every_dropped_frame_is_named_by_its_kind(mixed: Path) -> None:
    results = prune(mixed)
    assert results == [
        PruneResult(run_id="a", kept=3, dropped=DROPPED_A, conflicts=[]),
        PruneResult(run_id="run_b", kept=1, dropped=DROPPED_B, conflicts=[]),
    ]
    report = json.loads((mixed / "filtered/prune_report.json").read_text())
    assert report == [
        {"run_id": "a", "kept": 3, "dropped": DROPPED_A, "conflicts": []},
        {"run_id": "run_b", "kept": 1, "dropped": DROPPED_B, "conflicts": []},
    ]


def test_what_stays_is_a_capture_root_with_the_same_labels_and_images(mixed: Path) -> None:
    prune(mixed)
    assert kept_frames(mixed / "filtered") == [
        "a/frame_00000",
        "a/frame_00001",
        "a/frame_00006",
        "run_b/frame_00000",
    ]
    before, after = files_in(mixed / "captures"), files_in(mixed / "filtered")
    copied = {name for name in after if "/images/" in f"/{name}" or "/labels/" in f"/{name}"}
    assert len(copied) == 2 * 4
    assert all(after[name] == before[name] for name in copied)
    assert set(after) - copied == {
        "prune_report.json",
        "run_a/run_manifest.json",
        "run_b/run_manifest.json",
    }
    for name in copied:
        # A label that is corrected by hand in one place must not change in the other.
        is_linked = (mixed / "filtered" / name).samefile(mixed / "captures" / name)
        assert is_linked == ("/images/" in name)


def test_the_source_stays_as_it_is(mixed: Path) -> None:
    before = files_in(mixed / "captures")
    prune(mixed, empty_ratio=0)
    assert files_in(mixed / "captures") == before


def test_images_are_copied_where_they_cannot_be_linked(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> NoReturn:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", fail)
    prune(mixed)
    name = "run_a/images/frame_00000.png"
    assert (mixed / "filtered" / name).read_bytes() == (mixed / "captures" / name).read_bytes()
    assert not (mixed / "filtered" / name).samefile(mixed / "captures" / name)


def test_the_manifest_keeps_its_fields_and_gains_the_run_id_of_the_folder(mixed: Path) -> None:
    prune(mixed)
    manifests = [
        json.loads((mixed / f"filtered/{name}/run_manifest.json").read_text())
        for name in ("run_a", "run_b")
    ]
    assert manifests == [
        {"schema_version": 1, "run_id": "a", "dataset": "D", "num_frames": 3},
        {"schema_version": 1, "run_id": "run_b", "num_frames": 1},
    ]


def test_a_run_without_a_manifest_gets_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures/run_a", [BOX])
    (run / "run_manifest.json").unlink()
    prune(tmp_path)
    manifest = json.loads((tmp_path / "filtered/run_a/run_manifest.json").read_text())
    assert manifest == {"run_id": "run_a", "num_frames": 1}


def test_pruning_a_pruned_root_changes_nothing(mixed: Path) -> None:
    prune(mixed)
    again = prune(mixed, captures=mixed / "filtered", output_root=mixed / "again")
    assert [(result.kept, result.dropped) for result in again] == [(3, {}), (1, {})]


def test_of_two_labels_with_one_image_the_first_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures/run_a", [BOX])
    label = json.loads((run / "labels/frame_00000.json").read_text())
    write_json(run / "labels/second.json", label)
    (result,) = prune(tmp_path)
    assert result.dropped == {"duplicate": ["run_a/second has the image of run_a/frame_00000"]}
    assert kept_frames(tmp_path / "filtered") == ["run_a/frame_00000"]


def test_of_two_copies_of_an_image_the_labeled_one_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "captures/run_a", [], [])
    write_frame(run, 0, seed=1)
    write_frame(write_run(tmp_path / "captures/run_b"), 0, boxes_px=[BOX], seed=1)
    first, second = prune(tmp_path)
    assert kept_frames(tmp_path / "filtered") == ["run_a/frame_00001", "run_b/frame_00000"]
    said = "run_a/frame_00000 has the image of run_b/frame_00000"
    assert first.dropped == {"duplicate": [said]}
    assert (first.conflicts, second.conflicts) == ([f"{said} with no box"], [])


def test_two_labels_of_one_image_stay_and_are_named_whatever_the_order_of_boxes(
    tmp_path: Path,
) -> None:
    run, other = write_run(tmp_path / "captures/run_a"), [2, 2, 5, 5]
    for index, boxes in enumerate(([BOX, other], [], [BOX], [other, BOX], [BOX])):
        write_frame(run, index, boxes_px=boxes, seed=1)
    (result,) = prune(tmp_path)
    assert kept_frames(tmp_path / "filtered") == ["run_a/frame_00000", "run_a/frame_00002"]
    assert result.dropped == {
        "duplicate": [
            "run_a/frame_00001 has the image of run_a/frame_00000",
            "run_a/frame_00003 has the image of run_a/frame_00000",
            "run_a/frame_00004 has the image of run_a/frame_00002",
        ]
    }
    assert result.conflicts == [
        "run_a/frame_00001 has the image of run_a/frame_00000 with no box",
        "run_a/frame_00002 has the image of run_a/frame_00000 with other boxes; both stay",
    ]


def test_a_frame_whose_boxes_are_all_rejected_is_not_left_out_as_empty(tmp_path: Path) -> None:
    write_run(tmp_path / "captures/run_a", [[5, 5, 5, 5]], [], [BOX])
    prune(tmp_path, empty_ratio=0)
    assert kept_frames(tmp_path / "filtered") == ["run_a/frame_00000", "run_a/frame_00002"]


def write_empties(tmp_path: Path, *, num_empty: int = 20) -> None:
    write_run(tmp_path / "captures/run_a", [BOX], *[[]] * num_empty, [BOX])


def empties_kept(tmp_path: Path, *, ratio: float) -> set[str]:
    output_root = tmp_path / f"filtered_{ratio}"
    (result,) = prune(tmp_path, output_root=output_root, empty_ratio=ratio, overwrite=True)
    kept = set(kept_frames(output_root))
    assert {"run_a/frame_00000", "run_a/frame_00021"} <= kept
    empties = kept - {"run_a/frame_00000", "run_a/frame_00021"}
    dropped = result.dropped.get("empty", [])
    assert dropped == sorted(dropped)
    assert len(dropped) + len(empties) == 20
    assert empties.isdisjoint(dropped)
    return empties


def test_a_share_of_the_empty_frames_stays_and_a_larger_one_adds_to_it(tmp_path: Path) -> None:
    write_empties(tmp_path)
    kept = {ratio: empties_kept(tmp_path, ratio=ratio) for ratio in (0, 0.2, 0.5, 1)}
    assert kept[0] == set()
    assert set() < kept[0.2] < kept[0.5] < kept[1]
    assert len(kept[1]) == 20
    assert empties_kept(tmp_path, ratio=0.2) == kept[0.2]
    # Chosen by digest: not simply the first of the run.
    assert kept[0.5] != {f"run_a/frame_{index:05d}" for index in range(1, 11)}


def test_pruning_again_by_the_same_share_keeps_all(tmp_path: Path) -> None:
    write_empties(tmp_path)
    prune(tmp_path, empty_ratio=0.5)
    once = kept_frames(tmp_path / "filtered")
    prune(
        tmp_path,
        captures=tmp_path / "filtered",
        output_root=tmp_path / "again",
        empty_ratio=0.5,
    )
    assert kept_frames(tmp_path / "again") == once


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(HaustraError) as caught:
        PruneConfig(empty_ratio=ratio)
    assert str(caught.value) == f"empty_ratio={ratio}: expected a number from 0 to 1"


def test_an_existing_target_is_refused(mixed: Path) -> None:
    target = mixed / "filtered"
    target.mkdir()
    assert prune_error(mixed) == f"{target} exists already; remove it or pass overwrite=True"
    assert list(target.iterdir()) == []


def test_an_earlier_result_is_replaced_when_asked(mixed: Path) -> None:
    prune(mixed)
    (mixed / "captures/run_a/labels/frame_00000.json").unlink()
    prune(mixed, overwrite=True)
    assert "a/frame_00000" not in kept_frames(mixed / "filtered")


def test_a_folder_that_prune_did_not_make_is_never_replaced(mixed: Path) -> None:
    target = mixed / "filtered"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    assert prune_error(mixed, overwrite=True) == (
        f"{target} was not made by `haustra prune` (no prune_report.json); expected a new folder "
        "or an earlier result"
    )
    assert files_in(target) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("name", ["captures", "captures/filtered", ".", "captures/run_a"])
def test_a_target_that_overlaps_the_source_is_refused(mixed: Path, name: str) -> None:
    target = mixed / name
    before = files_in(mixed)
    assert prune_error(mixed, output_root=target, overwrite=True) == (
        f"output_root='{target}' overlaps the captures {mixed / 'captures'}; expected a "
        "folder of its own, since the input never changes"
    )
    assert files_in(mixed) == before


def test_a_target_that_overlaps_through_a_link_is_refused(mixed: Path) -> None:
    (mixed / "link").symlink_to(mixed / "captures")
    assert "overlaps the captures" in prune_error(mixed, output_root=mixed / "link/x")


def test_a_target_beside_the_source_with_a_longer_name_is_fine(mixed: Path) -> None:
    prune(mixed, output_root=mixed / "captures_filtered")
    assert (mixed / "captures_filtered/prune_report.json").is_file()


@pytest.mark.parametrize("num_empty", [0, 3])
def test_when_nothing_is_left_nothing_is_written(tmp_path: Path, num_empty: int) -> None:
    run = write_run(tmp_path / "captures/run_a", [BOX], *[[]] * num_empty)
    (run / "images/frame_00000.png").unlink()
    assert prune_error(tmp_path, empty_ratio=0) == (
        f"{tmp_path / 'captures'}: no frame is left after pruning; look at the frames with "
        "`haustra overlay`, or raise empty_ratio"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["captures"]


def test_a_run_of_which_nothing_stays_is_not_written_but_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "captures/run_a", [])
    write_run(tmp_path / "captures/run_b", [BOX])
    results = prune(tmp_path, empty_ratio=0)
    assert [(result.run_id, result.kept) for result in results] == [("run_a", 0), ("run_b", 1)]
    assert not (tmp_path / "filtered/run_a").exists()
    assert results[0].dropped == {"empty": ["run_a/frame_00000"]}


def test_a_single_run_can_be_pruned_from_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run_a", [BOX]))
    prune(tmp_path, captures=Path())
    assert read_run(tmp_path / "filtered/run_a").run_id == "run_a"


def test_an_interrupted_prune_leaves_nothing(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **named: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("haustra.captures.prune.write_json_atomic", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prune(mixed)
    assert [path.name for path in mixed.iterdir()] == ["captures"]
