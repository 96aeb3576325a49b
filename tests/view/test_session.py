"""Settings of the view, and the headless run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.captures.reader import read_run
from haustra.captures.sources import VideoFile
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.operating_point import OperatingPoint
from haustra.inference.config import InferConfig
from haustra.inference.pictures import infer_pictures, operating_point
from haustra.view.config import ViewConfig
from haustra.view.session import run_headless
from odd_videos import VIDEOS
from scenes import write_warehouse
from viewing import bright_detector, write_pictures


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"max_frames": 5},
            "max_frames=5: expected headless=True with it; the page runs until Ctrl-C",
        ),
        (
            {"headless": True},
            "headless=True: expected output_root, the folder that receives the run folder",
        ),
        (
            {"headless": True, "output_root": Path("out"), "record": True},
            "record=True: a headless run is always recorded; leave it out",
        ),
        (
            {"headless": True, "output_root": "out", "compare": "b.bin", "detector_weights": "a"},
            "compare='b.bin': a headless run has one detector; run it once for each",
        ),
        ({"model": "tiny"}, "model='tiny': expected detector_weights with it"),
        ({"compare": Path("b.bin")}, "compare='b.bin': expected detector_weights with it"),
        *[
            (
                {"allow_host": ["good.example", name]},
                f"allow_host={name!r}: expected NAME, NAME:PORT or https://NAME",
            )
            for name in ("", "*", "*.example", "a..b", "ws://a", "https://a/b", "a:99999", "u@a")
        ],
        *[
            (
                {"root_path": path},
                f"root_path={path!r}: expected a path such as /haustra that does not begin with "
                "/feed, /static, /status or /training",
            )
            for path in ("haustra", "//a", "/../a", '/"><script>', "/a b", "/status", "/feed/x")
        ],
    ],
)
def test_settings_that_contradict_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HaustraError) as error:
        ViewConfig(**values)
    assert str(error.value) == message


def test_thresholds_are_checked() -> None:
    with pytest.raises(HaustraError, match=r"1\.5: expected a number from 0 to 1"):
        ViewConfig(infer_obj_thresh=1.5)


def test_a_threshold_of_the_user_is_not_reported_as_fitted() -> None:
    detector = bright_detector()
    detector.operating_point = OperatingPoint(objectness=0.4, fitted={"fitted_on": "val"})
    assert operating_point(ViewConfig(), detector, in_time_order=True).fitted == {
        "fitted_on": "val"
    }
    changed = operating_point(ViewConfig(infer_obj_thresh=0.7), detector, in_time_order=True)
    assert (changed.objectness, changed.fitted) == (0.7, None)


@pytest.mark.parametrize("path", ["", "/", "/haustra", "/haustra/", "/training-room/v1.2/"])
def test_a_root_path_has_no_last_slash(path: str) -> None:
    assert ViewConfig(root_path=path).root_path == path.rstrip("/")


def test_settings_take_paths_as_text() -> None:
    given: Any = {"detector_weights": "a", "compare": "b", "training": "t", "output_root": "out"}
    config = ViewConfig(**given)
    paths = (config.detector_weights, config.compare, config.training, config.output_root)
    assert paths == (Path("a"), Path("b"), Path("t"), Path("out"))


def test_the_command_line_names_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["view", "--max-frames", "5"])
    assert "--max-frames 5: expected --headless with it" in capsys.readouterr().err


@pytest.mark.parametrize("hold_off", [0, 2])
def test_headless_gives_the_boxes_of_infer_bit_for_bit(tmp_path: Path, hold_off: int) -> None:
    manifest = write_warehouse(tmp_path)
    weights = tmp_path / "weights.bin"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    run = next((tmp_path / "captures").iterdir())
    shared: dict[str, Any] = {
        "detector_weights": weights,
        "infer_obj_thresh": 0.4,
        "infer_hold_off": hold_off,
    }
    wanted = infer_pictures(InferConfig(image=run, output_root=tmp_path / "boxed", **shared))
    result = run_headless(
        ViewConfig(source=str(run), headless=True, output_root=tmp_path / "out", **shared)
    )
    written = read_run(result.folder)
    assert len(written.frames) == len(wanted.pictures) > 1
    for frame, ours in zip(written.frames, wanted.pictures, strict=True):
        labels = json.loads(frame.label_path.read_text())["labels"]
        assert [label["bbox_px"] for label in labels] == ours.detections.boxes_px.tolist()
        assert [label["score"] for label in labels] == ours.detections.scores.tolist()
        assert frame.image_path is not None
        assert np.array_equal(read_image_rgb(frame.image_path), read_image_rgb(ours.image))
    assert sum(len(picture.detections) for picture in wanted.pictures) > 0
    assert result.numbers["boxes"] == sum(len(p.detections) for p in wanted.pictures)
    assert json.loads((result.folder / "numbers.json").read_text()) == result.numbers


def test_headless_names_unreadable_frames_and_leaves_no_partial_folder(
    tmp_path: Path,
) -> None:
    folder = write_pictures(tmp_path / "p", 0.6, 0.6)
    (folder / "001.png").write_bytes(b"nothing")
    config = {"source": str(folder), "headless": True, "output_root": tmp_path / "out"}
    result = run_headless(ViewConfig(**config))  # type: ignore[arg-type]
    assert len(result.numbers["unreadable"]) == 1
    assert result.numbers["frames"] == 1
    (folder / "000.png").write_bytes(b"nothing")
    with pytest.raises(HaustraError, match="is not an image"):
        run_headless(ViewConfig(**config))  # type: ignore[arg-type]
    assert list((tmp_path / "out").iterdir()) == [result.folder]


def test_a_headless_simulator_needs_max_frames_and_is_reproducible(tmp_path: Path) -> None:
    config: dict[str, Any] = {"source": "simulator:3", "size": 64, "headless": True}
    with pytest.raises(HaustraError) as error:
        run_headless(ViewConfig(output_root=tmp_path, **config))
    assert str(error.value) == (
        "source='simulator:3': a live source has no end; expected max_frames"
    )
    images = []
    for name in ("a", "b"):
        result = run_headless(ViewConfig(output_root=tmp_path / name, max_frames=3, **config))
        images.append([path.read_bytes() for path in sorted((result.folder / "images").iterdir())])
    assert images[0] == images[1]
    assert len(set(images[0])) == 3


def test_onnx_weights_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import haustra.view.server, haustra.inference.onnx_detector, haustra.inference.detector\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('scipy', 'embreex')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["variable.mkv", "live.webm", "joined.ts"])
def test_a_headless_run_has_every_frame_at_its_time(tmp_path: Path, name: str) -> None:
    VIDEOS[name](tmp_path / name)
    config = ViewConfig(source=str(tmp_path / name), headless=True, output_root=tmp_path / "out")
    result = run_headless(config)
    labels = [frame.label for frame in read_run(result.folder).frames]
    times = [frame.seconds for frame in VideoFile(tmp_path / name)]
    assert [label.sim_time for label in labels if label] == pytest.approx(times)
    assert len(labels) == result.numbers["frames"] == (180 if name == "joined.ts" else 60)
    assert result.numbers["unreadable"] == []
    assert len(result.numbers["notes"]) == (name == "joined.ts")
    assert read_run(result.folder).manifest.frame_rate_hz == pytest.approx(
        8.68 if name == "variable.mkv" else 30, abs=0.01
    )
