"""`haustra etl --split dataset`: the splits that runs state, and that no group is cut by them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import files_in, write_run
from haustra.captures.prune import PruneConfig, prune_captures
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.warehouse.etl import ETLResult
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.explain import explain_sample
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.table import StoredSamples
from scenes import build_beside

BOX = (2, 2, 20, 16)
STATED = {"ward-a": "train", "ward-b": "train", "ward-c": "val", "ward-d": "test"}


def write_runs(root: Path, stated: Mapping[str, str | None], **manifest: Any) -> Path:
    for run_id, split in stated.items():
        own = {"run_id": run_id, **({"split": split} if split else {}), **manifest}
        write_run(root / f"run_{run_id}", [BOX], [], **own)
    return root


def build(captures: Path, **settings: Any) -> ETLResult:
    return build_beside(captures, **{"split": "dataset", **settings})


def splits_in(result: ETLResult) -> dict[str, str]:
    return {row["run_id"]: row["split"] for row in StoredSamples(result.manifest_path).rows}


def test_each_run_goes_into_the_split_that_it_states(tmp_path: Path) -> None:
    result = build(write_runs(tmp_path / "captures", STATED))
    assert splits_in(result) == STATED
    assert (result.manifest.split_method, result.notes) == ("dataset", ())
    found = explain_sample(result.manifest_path, sample_id="ward-c/frame_00000")
    assert found.split_reason == "the dataset puts the group's runs into 'val'"


def test_other_names_of_the_validation_split_are_read(tmp_path: Path) -> None:
    stated = {"a": "train", "b": "valid", "c": "validation", "d": "dev"}
    result = build(write_runs(tmp_path / "captures", stated))
    assert splits_in(result) == {"a": "train", "b": "val", "c": "val", "d": "val"}


def test_a_stated_split_is_part_of_the_version(tmp_path: Path) -> None:
    version = build(write_runs(tmp_path / "a/captures", STATED)).manifest.version
    assert build(write_runs(tmp_path / "b/captures", STATED)).manifest.version == version
    moved = STATED | {"ward-b": "test"}
    assert build(write_runs(tmp_path / "c/captures", moved)).manifest.version != version


def test_prune_keeps_the_split_and_repair_makes_the_same_bytes(tmp_path: Path) -> None:
    captures = write_runs(tmp_path / "captures", STATED)
    prune_captures(PruneConfig(captures=captures, output_root=tmp_path / "pruned"))
    result = build(tmp_path / "pruned")
    assert splits_in(result) == STATED
    folder = result.manifest_path.parent
    whole = files_in(folder)
    (folder / "samples.parquet").write_bytes(b"broken")
    repair_warehouse(result.manifest_path, captures=tmp_path / "pruned")
    assert files_in(folder) == whole


def test_a_dataset_without_a_test_split_is_noted(tmp_path: Path) -> None:
    result = build(write_runs(tmp_path / "captures", {"x": "train", "y": "val"}))
    assert result.notes == ("split 'test' is empty: the dataset puts none of 2 group(s) there",)


def test_runs_that_state_no_split_are_named(tmp_path: Path) -> None:
    captures = write_runs(tmp_path / "captures", {"x": "train", "clinic": None, "ward": None})
    with pytest.raises(HaustraError) as caught:
        build(captures)
    assert str(caught.value) == (
        "split='dataset': 2 of 3 run(s) state no split: 'clinic', 'ward'; import them with "
        "split='train', 'val' or 'test', or use split='0.8,0.1,0.1', or list the groups of each "
        "split with split_file"
    )


def test_a_group_in_two_stated_splits_is_refused_with_both_runs(tmp_path: Path) -> None:
    stated = {"morning": "train", "evening": "test"}
    captures = write_runs(tmp_path / "captures", stated, group_id="patient 7")
    with pytest.raises(HaustraError) as caught:
        build(captures)
    assert str(caught.value) == (
        "split='dataset' cuts 1 group(s): 'patient 7' (run 'evening' is in 'test', run 'morning' "
        "in 'train'); expected one split per group, since frames of one group look alike; use "
        "split='0.8,0.1,0.1', or list the groups of each split with split_file, or leave out the "
        "runs of one split"
    )
    assert not list((tmp_path / "warehouse").glob("v*"))


def test_stated_splits_that_are_not_used_are_noted_once(tmp_path: Path) -> None:
    captures = write_runs(tmp_path / "captures", STATED)
    result = build(captures, split="1,0,0")
    assert result.notes == (
        "the dataset states splits (runs: train 2, val 1, test 1), which are not used here; "
        "--split dataset uses them",
    )
    assert build(write_runs(tmp_path / "none", {"x": None}), split="1,0,0").notes == ()


@pytest.mark.parametrize("other", [{"split_rule": "sha256:5"}, {"split_file": Path("s.json")}])
def test_two_ways_to_split_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(HaustraError, match=r"split='dataset' and split_\w+: expected one of them"):
        ETLConfig(split="dataset", **other)


def test_an_unknown_split_in_a_manifest_is_named(tmp_path: Path) -> None:
    captures = write_runs(tmp_path / "captures", {"x": "training"})
    with pytest.raises(HaustraError, match=r"run_manifest.json is not a run manifest: .*'split'"):
        build(captures)


def test_the_command_states_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_runs(Path("captures"), STATED)
    main(["etl", "--captures", "captures", "--split", "dataset", "--target-size", "64", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert [made["splits"][name]["samples"] for name in ("train", "val", "test")] == [4, 2, 2]
    main(["info", made["manifest"]])
    assert "dataset" in capsys.readouterr().out
