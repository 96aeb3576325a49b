"""`haustra infer --video`: which frames, which boxes, what when the video is damaged."""

from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.captures.sources import VideoFile
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.inference.config import InferConfig
from haustra.inference.detector import open_detector
from haustra.inference.video import infer_video
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
    num_read = VideoFile(tmp_path / "a_boxed.mp4", setting="video").num_frames
    assert 0 < num_read < 20
    assert stopped.value.code == 2
    assert told.err.splitlines()[-1].endswith(
        f"{num_read} of 20 frames could be read, they are boxed: {path} ends or is damaged at "
        f"frame {num_read}"
    )


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
    assert str(caught.value) == f"out={str(path)!r}: expected another file than video"
    assert path.read_bytes() == before
