"""`haustra infer --video`: which frames, which boxes, what when the video is damaged."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.captures.sources import VideoFile
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.inference.config import InferConfig
from haustra.inference.detector import open_detector
from haustra.inference.video import infer_video
from odd_videos import VIDEOS, number_in
from scenes import write_warehouse
from viewing import write_video


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "lively.bin"
    write_lively_checkpoint(path, manifest=write_warehouse(tmp_path / "data", num_runs=3))
    return path


def test_the_boxes_are_those_of_the_detector_on_each_frame(tmp_path: Path, weights: Path) -> None:
    write_video(tmp_path / "a.mp4")
    result = infer_video(
        InferConfig(video=tmp_path / "a.mp4", detector_weights=weights, infer_obj_thresh=0.05)
    )
    video, detector = VideoFile(tmp_path / "a.mp4", setting="video"), open_detector(weights)
    assert len(result.frames) == 12
    assert result.num_frames_boxed > 0
    for number, found in enumerate(result.frames):
        wanted = detector.detect(video.read(number).image_rgb, objectness=0.05, iou=0.5)
        assert found.boxes_px.tolist() == wanted.boxes_px.tolist()
        assert found.scores.tolist() == wanted.scores.tolist()
    assert result.detector.backend == result.to_json()["backend"] == detector.backend
    assert result.out == tmp_path / "a_boxed.mp4"
    boxed = VideoFile(result.out, setting="video")
    assert (boxed.num_frames, boxed.frame_rate_hz) == (12, 20.0)


def test_boxes_are_green_in_the_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    result = infer_video(
        InferConfig(video=tmp_path / "a.mp4", out=tmp_path / "b.avi", infer_obj_thresh=0.0)
    )
    assert result.detector.kind == "heuristic"
    assert result.detector.backend is None
    number = next(i for i, found in enumerate(result.frames) if len(found))
    drawn = VideoFile(tmp_path / "b.avi", setting="video").read(number).image_rgb.astype(int)
    factor = drawn.shape[0] // 64
    x0, y0, _x1, y1 = (int(v) * factor for v in result.frames[number].boxes_px[0])
    red, green, blue = drawn[(y0 + y1) // 2, max(0, x0 - 1) : x0 + 3].T
    assert (green - np.maximum(red, blue)).max() > 50


def test_hold_off_holds_back_the_first_frames_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    shared = {"video": tmp_path / "a.mp4", "infer_obj_thresh": 0.0}
    shown = infer_video(InferConfig(**shared))  # type: ignore[arg-type]
    held = infer_video(InferConfig(**shared, infer_hold_off=3))  # type: ignore[arg-type]
    first = next(i for i, found in enumerate(shown.frames) if len(found))
    assert [len(found) for found in held.frames[first : first + 3]] == [0, 0, 0]
    assert len(held.frames[first + 3]) > 0


def test_a_video_that_ends_early_is_boxed_as_far_as_it_goes_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.avi"
    write_video(path, num_frames=20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SystemExit) as stopped:
        main(["infer", "--video", str(path)])
    told = capsys.readouterr()
    assert "but it states 1 s" in told.out
    num_read = len(list(VideoFile(tmp_path / "a_boxed.mp4", setting="video")))
    assert 0 < num_read < 20
    assert stopped.value.code == 2
    assert f"{num_read} frames could be read, they are boxed: {path} is cut short" in told.err


def test_what_is_no_video_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(HaustraError) as caught:
        infer_video(InferConfig(video=path))
    assert str(caught.value) == f"video={str(path)!r}: expected a video file; it does not exist"
    path.write_bytes(b"nothing" * 99)
    with pytest.raises(HaustraError) as caught:
        infer_video(InferConfig(video=path))
    assert str(caught.value) == f"video={str(path)!r}: expected a video that OpenCV decodes"
    assert [child.name for child in tmp_path.iterdir()] == ["a.mp4"]


def test_the_video_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path)
    before = path.read_bytes()
    with pytest.raises(HaustraError) as caught:
        infer_video(InferConfig(video=path, out=path))
    assert "is also video, which is only read; expected another file" in str(caught.value)
    assert path.read_bytes() == before


def write_joined(path: Path, *, parts: int) -> None:
    """Write a video of 20 frames several times over; the container states 20."""
    write_video(path, num_frames=20)
    path.write_bytes(path.read_bytes() * parts)


def test_all_frames_of_a_joined_video_are_boxed(tmp_path: Path) -> None:
    write_joined(tmp_path / "a.avi", parts=3)
    result = infer_video(InferConfig(video=tmp_path / "a.avi"))
    assert len(result.frames) == 60
    assert result.to_json()["frame_times_s"] == pytest.approx([n / 20 for n in range(60)])
    assert (result.notes, result.unreadable) == ([], [])
    assert len(list(VideoFile(result.out))) == 60


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["variable.mkv", "variable.mp4"])
def test_a_variable_frame_rate_keeps_its_times_and_its_speed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    VIDEOS[name](path)
    main(["infer", "--video", str(path)])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{tmp_path}/variable_boxed.mp4: 155 boxes on 60 of 60 frames at 30 frames/s",
        f"{path}: resampled to 30 frames/s: 145 frames repeated",
    ]
    main(["infer", "--video", str(path), "--json"])
    value = json.loads(capsys.readouterr().out)
    wanted = [n / 30 for n in range(30)] + [1 + n / 5 for n in range(30)]
    assert value["frame_times_s"] == pytest.approx(wanted, abs=0.001)
    assert value["out_frame_rate_hz"] == 30
    assert value["notes"] == ["resampled to 30 frames/s: 145 frames repeated"]
    shown = {round(30 * frame.seconds): frame.image_rgb for frame in VideoFile(value["out"])}
    for number, seconds in enumerate(wanted):
        picture = cv2.resize(shown[round(30 * seconds)], (160, 120), interpolation=cv2.INTER_AREA)
        assert number_in(np.asarray(picture, np.uint8)) == number


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_frames_that_do_not_decode_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    VIDEOS["zeros.mp4"](tmp_path / "a.mp4")
    with pytest.raises(SystemExit) as stopped:
        main(["infer", "--video", str(tmp_path / "a.mp4"), "--json"])
    told = capsys.readouterr()
    value = json.loads(told.out)
    assert stopped.value.code == 2
    assert value["unreadable"][0].endswith("of its frames did not decode")
    assert f"{len(value['frames'])} frames could be read, they are boxed: " in told.err


def test_a_stream_gives_the_frames_and_then_says_what_is_missing(
    tmp_path: Path, weights: Path
) -> None:
    path = tmp_path / "a.avi"
    write_video(path, num_frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen: list[object] = []

    def read() -> None:
        seen.extend(found for _, found in open_detector(weights).stream(path))

    with pytest.raises(HaustraError, match="is cut short"):
        read()
    assert 0 < len(seen) < 20
