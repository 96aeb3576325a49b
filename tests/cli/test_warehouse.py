import json
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from builders import write_frame
from haustra.cli.main import main
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from scenes import smooth_picture, write_captures, write_pictures, write_warehouse


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse that no test changes, by its manifest."""
    return write_warehouse(tmp_path_factory.mktemp("sound folder"))


def run(*arguments: object) -> int:
    try:
        main(["warehouse", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_verify_prints_one_line_about_its_checks(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads(sound.read_text())
    megabytes = sum(entry["num_bytes"] for entry in manifest["shards"]) / 1e6
    boxes = sum(counts["boxes"] for counts in manifest["splits"].values())
    assert run("verify", sound.parent) == 0
    assert capsys.readouterr().out == (
        f"verified {sound}: {len(manifest['shards'])} shard(s) of {megabytes:.1f} MB and the table "
        f"have their digests, and agree on 32 samples, {boxes} boxes and 8 groups\n"
    )
    assert run("verify", sound, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["num_samples"]) == ([], 32)


def test_verify_names_every_problem_and_exits_with_2(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / sound.parent.name
    shutil.copytree(sound.parent, folder)
    files = [entry["file"] for entry in json.loads(sound.read_text())["shards"]]
    (folder / files[0]).unlink()
    (folder / files[1]).unlink()
    assert run("verify", folder) == 2
    shown = capsys.readouterr()
    assert shown.out == (
        f"{files[0]} is gone, but its manifest lists it\n"
        f"{files[1]} is gone, but its manifest lists it\n"
    )
    assert shown.err == (
        f"haustra: {folder / 'manifest.json'} has 2 problem(s); expected none; repair it from "
        "its captures with `haustra warehouse repair`\n"
    )
    assert run("verify", folder, "--json") == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_repair_makes_a_broken_shard_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path)
    num_shards = len(json.loads(manifest.read_text())["shards"])
    captures = tmp_path / "captures"
    assert run("repair", manifest, "--captures", captures) == 0
    assert capsys.readouterr().out == f"{manifest} is whole; nothing to repair\n"
    broken = manifest.parent / json.loads(manifest.read_text())["shards"][0]["file"]
    data = broken.read_bytes()
    broken.unlink()
    assert run("repair", manifest.parent, "--captures", captures) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"repaired {manifest}: 1 shard(s) made again, {num_shards - 1} kept"
    )
    assert broken.read_bytes() == data
    assert run("verify", manifest) == 0


def test_explain_shows_one_sample(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", sound, "r000/frame_00001", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert run("explain", sound, "r000/frame_00001") == 0
    assert capsys.readouterr().out == (
        "r000/frame_00001\n"
        "source     images/frame_00001.png of run r000\n"
        f"           80x64, sha256 {found['source_sha256']}\n"
        "transform  letterbox to 64x64: scale 0.8, 0.796875, offset 0, 6\n"
        "boxes      1 usable, 1 stored\n"
        "           0..1 of the stored image: [0.5500, 0.1809, 0.7125, 0.3428]\n"
        "           source pixels: [44.0, 7.0, 57.0, 20.0]\n"
        "group      colon_000\n"
        "split      train: the group's hash 0.374982 lies in train's range 0 to 0.5\n"
        f"stored in  {found['shard']} row {found['row']}\n"
    )
    assert run("explain", sound, "r000/frame_00000") == 0
    assert "source pixels: none" in capsys.readouterr().out


def test_diff_shows_counts_first_and_limits_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_warehouse(tmp_path)
    for frame in range(3):
        write_frame(
            tmp_path / "captures" / "run_000", frame, boxes_px=[(1, 1, 9, 9)], size_wh=(80, 64)
        )
    after = build_warehouse(
        ETLConfig(
            captures=tmp_path / "captures",
            output_root=tmp_path / "warehouse",
            target_size="64",
            max_boxes=5,
            split="0.5,0.25,0.25",
            samples_per_shard=8,
        )
    ).manifest_path
    capsys.readouterr()
    assert run("diff", before, after, "--max-names", 2) == 0
    version_a, version_b = (json.loads(path.read_text())["version"] for path in (before, after))
    # run_000's new labels name no group of their own, so its group stays that of the run.
    assert capsys.readouterr().out == (
        f"A v{version_a}: 32 samples\n"
        f"B v{version_b}: 32 samples\n"
        "29 samples the same, 0 added, 0 removed, 3 relabeled, 3 with changed pixels, 0 moved "
        "between splits, 0 regrouped; 1 settings and 0 sources differ\n"
        "relabeled: r000/frame_00000\n"
        "relabeled: r000/frame_00001\n"
        "relabeled: ... and 1 more\n"
        "changed pixels: r000/frame_00000\n"
        "changed pixels: r000/frame_00001\n"
        "changed pixels: ... and 1 more\n"
        "setting: max_boxes: 4 -> 5\n"
    )
    assert run("diff", before, after, "--max-names", 0, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["relabelled"] == [f"r000/frame_0000{i}" for i in range(3)]
    assert found["settings"] == {"max_boxes": [4, 5]}
    assert found["equal"] is False
    assert run("diff", before, before) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "equal: the same samples, labels, pixels, splits, settings and sources"
    )


def test_export_writes_the_file_that_it_names(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "summary.parquet"
    assert run("export", sound, "--out", out) == 0
    boxes = sum(pq.read_table(out).column("num_boxes").to_pylist())
    assert capsys.readouterr().out == f"wrote {out}: 32 samples with {boxes} boxes\n"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.parquet"]


def test_command_prints_a_line_that_a_shell_takes(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("command", sound) == 0
    line = capsys.readouterr().out
    assert line == f"haustra train --manifest '{sound}' --model big\n"
    assert run("command", sound, "--json") == 0
    assert json.loads(capsys.readouterr().out)["command"] == shlex.split(line)


def test_audit_names_pairs_and_fails_only_when_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = [smooth_picture(1), smooth_picture(2)]
    pictures = {"train_a": twins, "train_b": twins, "val_a": [*twins, smooth_picture(3)]}
    manifest = write_pictures(tmp_path, pictures)
    assert run("audit", manifest, "--max-pairs", 3) == 0
    assert capsys.readouterr().out.splitlines() == [
        "difference 0.0000: train train_a/frame_00000, val val_a/frame_00000",
        "difference 0.0000: train train_a/frame_00001, val val_a/frame_00001",
        "difference 0.0000: train train_b/frame_00000, val val_a/frame_00000",
        "... and 1 more",
        "7 images, 4 pair(s) across splits look alike",
    ]
    assert run("audit", manifest, "--strict", "--json") == 2
    result = capsys.readouterr()
    found = json.loads(result.out)
    assert (found["num_pairs"], len(found["pairs"])) == (4, 4)
    assert result.err == (
        "haustra: 4 pair(s) of images in different splits look alike; expected none with --strict; "
        "give each pair one group, or remove one of the two, and run `haustra etl` again\n"
    )
    alone = write_pictures(tmp_path / "alone", {"train_a": twins, "val_a": [smooth_picture(3)]})
    assert run("audit", alone, "--strict") == 0
    assert capsys.readouterr().out == "3 images, 0 pair(s) across splits look alike\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["verify", "m.json"],
            "m.json does not exist; expected a warehouse manifest; make one with `haustra etl`",
        ),
        (
            ["diff", "a.json", "b.json", "--max-names", "-1"],
            "--max-names -1: expected a whole number of at least 0",
        ),
        (
            ["audit", "m.json", "--max-pairs", "0"],
            "--max-pairs 0: expected a whole number of at least 1",
        ),
        (
            ["export", "m.json", "--out", "summary.txt"],
            "--out summary.txt: expected a file name that ends in .parquet or .csv",
        ),
        (["export", "m.json"], 'Command "warehouse export" parameter --out requires an argument.'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.removesuffix(" See --help.\n").removesuffix("\n") == f"haustra: {message}"
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("max_polyps", "model"), [(1, "tiny"), (3, "big")])
def test_etl_and_warehouse_command_name_the_same_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], max_polyps: int, model: str
) -> None:
    write_captures(tmp_path / "captures", max_polyps=max_polyps)
    places = ["--captures", tmp_path / "captures", "--output-root", tmp_path / "warehouse"]
    main(["etl", *map(str, places), "--target-size", "64", "--split", "0.5,0.25,0.25"])
    (manifest,) = tmp_path.glob("warehouse/*/manifest.json")
    expected = f"haustra train --manifest {manifest} --model {model}"
    assert capsys.readouterr().out.endswith(f"next: {expected}\n")
    assert run("command", manifest) == 0
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_warehouse_that_is_all_test_is_evaluated_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path, split="0,0,1")
    assert run("command", manifest) == 0
    assert capsys.readouterr().out == (
        f"haustra eval --manifest {manifest} --split test --detector-weights CHECKPOINT\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["train", "--manifest", str(manifest), "--checkpoint-out", str(tmp_path / "x.bin")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"haustra: {manifest}: the training split is empty, so there is nothing to train on; "
        "evaluate a detector on this warehouse with `haustra eval`, or build one whose `haustra "
        "etl --split` gives train a share\n"
    )
