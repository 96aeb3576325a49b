import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import make_cli
from checkpoints import write_lively_checkpoint
from haustra import __version__
from haustra.cli.main import COMMANDS, main
from scenes import write_captures, write_warehouse
from viewing import until

LIGHT = (
    "torch",
    "cv2",
    "numpy",
    "pyarrow",
    "matplotlib",
    "embreex",
    "pydantic",
    "onnx",
    "onnxruntime",
    "tinygrad",
)


def run(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from haustra.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        f"finally:\n    print('LOADED', [n for n in {LIGHT!r} if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert name in done.stdout
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_without_torch(name: str) -> None:
    code = (
        "import sys\n"
        "from haustra.cli.main import main\n"
        f"try:\n    main([{name!r}, '--help'])\n"
        "finally:\n    print('LOADED', 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED False" in done.stdout
    assert "Usage: haustra" in done.stdout


@pytest.mark.parametrize("words", make_cli.list_commands())
def test_help_shows_every_word_of_its_texts(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    command = make_cli.list_commands()[words]
    assert run([*words.split(), "--help"]) == 0
    shown = set(capsys.readouterr().out.split())
    texts = {words: command.help.split("Args:\n")[0]} | {
        setting.names[0]: setting.parameter.help or ""
        for setting in make_cli.list_settings(command)
    }
    for name, text in texts.items():
        lost = set(text.replace("`", "").split()) - shown
        assert not lost, f"the help of {words} {name} loses {lost}"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            'Unknown command "trian". Did you mean "train"? Available commands: datagen, import, '
            "overlay, prune, etl, train, eval, infer, ... See --help.",
        ),
        (["train"], 'Command "train" parameter --manifest requires an argument. See --help.'),
        (["etl", "--colour", "red"], "Unknown option: --colour. See --help."),
        (
            ["train", "--manifest", "m.json", "--model", "huge"],
            'Invalid value "huge" for --model. Choose from: "tiny", "big". See --help.',
        ),
        (
            ["train", "--manifest", "m.json", "--backend", "gpu"],
            'Invalid value "gpu" for --backend. Choose from: "cpu", "wgpu", "cuda", "mps", '
            '"auto", "ndarray". Did you mean "wgpu"? See --help.',
        ),
        (
            ["train", "--manifest", "m.json", "--epochs", "0"],
            "--epochs 0: expected a whole number of at least 1",
        ),
        (
            ["train", "--manifest", "m.json"],
            "m.json does not exist; expected a warehouse manifest; make one with `haustra etl`",
        ),
        (
            ["train", "--manifest", "m.json", "--epochs", "1.5"],
            "Invalid value for --epochs: '1.5' is not a whole number. See --help.",
        ),
        (
            ["datagen", "--size", "0"],
            "--size 0: expected a whole number from 64 to 4096",
        ),
        (
            ["etl"],
            "captures_filtered does not exist; expected a folder with run folders; make one with "
            "`haustra datagen` or `haustra import`",
        ),
        (
            ["eval", "--manifest", "m.json", "--detector-weights", "c.bin"],
            "c.bin does not exist; expected a checkpoint; make one with `haustra train`",
        ),
        (
            ["eval", "--manifest", "m", "--detector-weights", "w", "--bootstrap", "-1"],
            "--bootstrap -1: expected a whole number from 0 to 100000",
        ),
        (
            ["eval", "--manifest", "m", "--detector-weights", "w", "--bootstrap", "100001"],
            "--bootstrap 100001: expected a whole number from 0 to 100000",
        ),
        (
            ["eval", "--manifest", "m", "--detector-weights", "w", "--bootstrap", "1.5"],
            "Invalid value for --bootstrap: '1.5' is not a whole number. See --help.",
        ),
        (
            ["eval", "--manifest", "m", "--detector-weights", "w", "--bootstrap-seed", "-1"],
            "--bootstrap-seed -1: expected a whole number of at least 0",
        ),
        (
            ["infer", "--image", "a.png", "--infer-obj-thresh", "2"],
            "--infer-obj-thresh 2.0: expected a number from 0 to 1",
        ),
        (
            ["eval", "--manifest", "m.json", "--detector-weights", "c.onnx"],
            "c.onnx does not exist; expected an ONNX model; make one with `haustra export`",
        ),
        (
            ["export", "--detector-weights", "c.bin"],
            "c.bin does not exist; expected a checkpoint; make one with `haustra train`",
        ),
        (
            ["export", "--detector-weights", "c.bin", "--opset", "9"],
            "--opset 9: expected a whole number from 18 to 21",
        ),
        (
            ["info", "x.bin"],
            "x.bin does not exist; expected a manifest.json, a checkpoint or an ONNX model",
        ),
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
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err == f"haustra: {message}\n"
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: object, **settings: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("haustra.captures.prune.read_runs", broken)
    with pytest.raises(ZeroDivisionError):
        main(["prune", "--captures", str(tmp_path), "--output-root", str(tmp_path.parent / "o")])


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 9. GiB"), "Unable to allocate 9. GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (
            OSError("Mapping failed: Cannot allocate memory"),
            "Mapping failed: Cannot allocate memory",
        ),
    ],
)
def test_no_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    what: str,
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("haustra.captures.prune.read_runs", full)
    output = tmp_path.parent / "o"
    assert run(["prune", "--captures", str(tmp_path), "--output-root", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"haustra: {what}; close other programs, or raise this one's limit (`ulimit -v`)\n"
    )


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.ENOENT, errno.ENAMETOOLONG]
)
def test_what_the_disk_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise OSError(number, os.strerror(number), "out/frame.png")

    monkeypatch.setattr("haustra.captures.prune.read_runs", full)
    output = tmp_path.parent / "o"
    assert run(["prune", "--captures", str(tmp_path), "--output-root", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"haustra: out/frame.png: {os.strerror(number)}; choose another place or make room there\n"
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_stopped_program_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "haustra", "datagen", "--frames", "5000", "--size", "64"]
    with subprocess.Popen(
        [*command, "--output-root", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: list(tmp_path.glob("out/.run_*/labels/*")), within_s=60)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "haustra: interrupted; files that were complete stay\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("haustra.captures.prune.read_runs", interrupted)
    output = tmp_path.parent / "o"
    assert run(["prune", "--captures", str(tmp_path), "--output-root", str(output)]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_eval_prints_and_stores_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path)
    weights = tmp_path / "bigdet.bin"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    metrics = tmp_path / "metrics.json"
    measure = ["eval", "--manifest", str(manifest), "--detector-weights", str(weights)]
    measure += ["--split", "train", "--metrics-out", str(metrics)]
    assert run(measure) == 0
    assert json.loads(metrics.read_text())["bootstrap"]["num_resamples"] == 1000
    assert "interval" in capsys.readouterr().out
    assert run([*measure, "--bootstrap", "0"]) == 0
    assert json.loads(metrics.read_text())["bootstrap"] is None
    assert "interval" not in capsys.readouterr().out
    assert run([*measure, "--bootstrap", "20", "--bootstrap-seed", "3"]) == 0
    stored = json.loads(metrics.read_text())["bootstrap"]
    assert (stored["num_resamples"], stored["seed"]) == (20, 3)
    printed = capsys.readouterr().out
    for name, end in zip((r"95% from", "to"), stored["ap50"], strict=True):
        assert re.search(rf"^  {name} +{end:.3f} ", printed, flags=re.MULTILINE)
    assert f"95% intervals: 20 resamples of {stored['num_groups']} groups\n" in printed


def test_eval_gives_null_for_what_frames_without_polyps_cannot_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_captures(tmp_path / "captures", frames_per_run=1)
    weights = tmp_path / "w.bin"
    write_lively_checkpoint(weights, manifest=write_warehouse(tmp_path / "w"))
    command = ["eval", "--captures", str(tmp_path / "captures"), "--detector-weights", str(weights)]
    assert run([*command, "--degrade", "--report", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert "recall: not measured, because no polyp is labeled" in shown
    columns, row = (line.split() for line in shown.replace("score >=", "at").splitlines()[:2])
    scores = dict(zip(columns, row, strict=True))
    assert {scores[name] for name in ("AP50", "recall", "F1", "duplicates")} == {"-"}
    assert run([*command, "--degrade", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    unknown = [value["at_threshold"][name] for name in ("recall", "f1", "mean_matched_iou")]
    unknown += [value["bootstrap"]["recall"], value["frames"]["f1"], value["degradations"]["worst"]]
    assert unknown == [None] * 6


def test_eval_refuses_an_empty_split_and_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path, split="0.7,0.3,0")
    weights = tmp_path / "tinydet.bin"
    train = ["train", "--manifest", str(manifest), "--epochs", "1"]
    assert run([*train, "--checkpoint-out", str(weights)]) == 0
    capsys.readouterr()
    measure = ["eval", "--detector-weights", str(weights), "--manifest"]
    assert run([*measure, str(manifest)]) == 2
    assert capsys.readouterr().err == (
        f"haustra: --split test of {manifest} is empty; expected one of train, val\n"
    )
    etl = ["etl", "--captures", str(tmp_path / "captures"), "--target-size", "96", "--json"]
    assert run([*etl, "--output-root", str(tmp_path / "other")]) == 0
    other = json.loads(capsys.readouterr().out)["manifest"]
    assert run([*measure, other, "--split", "train"]) == 2
    assert capsys.readouterr().err == (
        f"haustra: {weights} takes 64x64 letterbox images, but {other} stores 96x96 letterbox "
        "ones; expected a warehouse of the same --target-size and --resize-mode\n"
    )


def test_etl_prints_how_many_shards_it_made_and_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captures = tmp_path / "captures"
    write_captures(captures, num_runs=8)
    (captures / "run_003").rename(tmp_path / "later")
    etl = ["etl", "--captures", str(captures), "--output-root", str(tmp_path / "w")]
    assert run([*etl, "--target-size", "64"]) == 0
    (tmp_path / "later").rename(captures / "run_003")
    capsys.readouterr()
    assert run([*etl, "--target-size", "64"]) == 0
    manifest = max((tmp_path / "w").glob("v*/manifest.json"), key=lambda path: path.stat().st_mtime)
    lines = capsys.readouterr().out.splitlines()
    assert f"built {manifest}: 1 shard(s) made, 7 reused" in [line.strip() for line in lines]
    assert run([*etl, "--target-size", "64", "--split", "0.4,0.3,0.3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["built_shards"], told["reused_shards"]) == (0, 8)


@pytest.mark.slow
def test_the_whole_pipeline_through_the_command_line(tmp_path: Path) -> None:
    def haustra(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "haustra", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # With these seeds the default ratios give every split a run.
    haustra("datagen", "--seed", "14", "--runs", "6", "--frames", "6", "--size", "96")
    assert "drew 6 pictures" in haustra("overlay", "captures/run_sim_000014")
    assert "captures_filtered" in haustra("prune")
    built = haustra("etl", "--target-size", "96", "--json")
    manifest = json.loads(built)["manifest"]
    assert "nothing to do" in haustra("etl", "--target-size", "96")
    for model in ("tiny", "big"):
        trained = haustra("train", "--manifest", manifest, "--model", model, "--epochs", "2")
        assert f"checkpoint checkpoints/{model}det.bin" in trained
        weights = f"checkpoints/{model}det.bin"
        arguments = ["eval", "--manifest", manifest, "--detector-weights", weights]
        assert "AP50-95" in haustra(*arguments, "--report", f"report_{model}")
        names = {path.name for path in (tmp_path / f"report_{model}").iterdir()}
        always = {"report.html", "report.json", "curves.png", "clinical.png", "gallery.png"}
        assert always <= names <= always | {"misses.png", "false_alarms.png"}
        assert f"{model}det" in haustra("info", weights)
        found = haustra(
            "infer", "--image", "captures/run_sim_000014", "--detector-weights", weights, "--json"
        )
        assert len(json.loads(found)["images"]) == 6
        exported = haustra("export", "--detector-weights", weights)
        assert f"wrote checkpoints/{model}det.onnx (opset 18)" in exported
        graph = f"checkpoints/{model}det.onnx"
        assert "ONNX in float32" in haustra("info", graph)
        again = haustra(
            "infer", "--image", "captures/run_sim_000014", "--detector-weights", graph, "--json"
        )
        assert len(json.loads(again)["images"]) == 6
    assert "letterbox" in haustra("info", manifest)
    assert "heuristic" in haustra("infer", "--image", "captures/run_sim_000014/images")
