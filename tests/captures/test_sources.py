"""Sources of frames: what opens, in which order frames come, and which errors are reported."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders import write_run
from haustra.captures.reader import read_run
from haustra.captures.sources import (
    Camera,
    ImageFolder,
    SourceEndedError,
    VideoFile,
    open_source,
)
from haustra.core.errors import HaustraError
from haustra.evaluation.frames import open_captures
from viewing import picture, write_pictures, write_video


class FakeCapture:
    """An OpenCV capture of three frames, which states none or another number of them."""

    stated = 0

    def __init__(self, address: int | str, *_settings: Any) -> None:
        self.address, self._left, self.is_released = address, 3, False

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FRAME_COUNT: self.stated, cv2.CAP_PROP_FPS: 25}[name]

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def read(self) -> tuple[bool, Any]:
        self._left -= 1
        return self._left >= 0, cv2.cvtColor(picture(0.5), cv2.COLOR_RGB2BGR)

    def release(self) -> None:
        self.is_released = True


def test_a_video_can_be_read_in_any_order(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    with open_source(tmp_path / "a.mp4") as video:
        assert isinstance(video, VideoFile)
        assert video.seekable
        assert (video.name, video.num_frames, video.frame_rate_hz) == ("a.mp4", 12, 20.0)
        in_order = [frame.image_rgb for frame in video]
        assert len(in_order) == 12
        for number in (7, 2, 2, 11, 0):
            frame = video.read(number)
            assert frame.number == number
            assert frame.seconds == pytest.approx(number / 20)
            assert np.array_equal(frame.image_rgb, in_order[number])


def test_a_damaged_video_gives_its_frames_and_then_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, num_frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers: list[int] = []

    def read_all() -> None:
        with open_source(path) as video:
            numbers.extend(frame.number for frame in video)

    with pytest.raises(HaustraError, match=r"a\.avi is cut short: it ends [0-9]+ bytes before"):
        read_all()
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 20


def test_a_run_has_labels_and_a_folder_of_images_has_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], [(1, 1, 9, 9)], [], frame_rate_hz=4.0)
    with open_source(folder) as run:
        assert isinstance(run, ImageFolder)
        assert (run.num_frames, run.frame_rate_hz) == (3, 4.0)
        assert [len(frame.truth or ()) for frame in run] == [0, 1, 0]
        assert [frame.seconds for frame in run] == [0.0, 0.25, 0.5]
    with open_source(folder / "images") as plain:
        assert plain.name == "images"
        assert [frame.truth for frame in plain] == [None] * 3


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", 0.2, 0.4, 0.6)
    with open_source(folder) as source:
        brightest = [int(frame.image_rgb.max()) for frame in source]
        assert brightest == sorted(brightest)
        assert source.read(2).number == 2


@pytest.mark.parametrize(
    ("text", "address", "name"),
    [
        (0, 0, "camera:0"),
        ("camera:3", 3, "camera:3"),
        ("rtsp://host/stream", "rtsp://host/stream", "rtsp://host/stream"),
    ],
)
def test_a_camera_or_stream_is_live_and_released(
    monkeypatch: pytest.MonkeyPatch, text: int | str, address: int | str, name: str
) -> None:
    opened: list[FakeCapture] = []

    def capture(where: int | str, *settings: Any) -> FakeCapture:
        opened.append(FakeCapture(where, *settings))
        return opened[-1]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    with open_source(text) as camera:
        assert isinstance(camera, Camera)
        assert (camera.name, camera.seekable, camera.num_frames) == (name, False, None)
        frames = list(islice(camera, 3))
        with pytest.raises(HaustraError) as error:
            camera.read(3)
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert np.array_equal(frames[0].image_rgb, picture(0.5))
    assert str(error.value) == f"source={name!r}: no further frame arrived"
    assert (opened[0].address, opened[0].is_released) == (address, True)


@pytest.mark.parametrize(("stated", "is_film"), [(3, True), (8, True), (0, False), (500, False)])
def test_a_film_at_a_url_ends_and_a_stream_is_cut(
    monkeypatch: pytest.MonkeyPatch, stated: int, is_film: bool
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "stated", stated)
    with open_source("http://host/clip.mp4") as film:
        assert film.reconnects
        assert film.frame_rate_hz == (25 if stated else None)
        for number in range(3):
            film.read(number)
        with pytest.raises(HaustraError) as error:
            film.read(3)
        assert isinstance(error.value, SourceEndedError) == is_film
        film.reopen()
        assert film.read(4).number == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "nowhere",
            "source='nowhere': expected a run folder, a folder of images, a video file, camera:0 "
            "or a URL (`haustra view` also takes simulator and simulator:SEED)",
        ),
        ("text.txt", "source='text.txt': expected a video that OpenCV decodes"),
        ("empty", "source='empty': the folder holds no image (PNG, JPEG, BMP, TIFF or WebP)"),
        (
            "camera:97",
            "source='camera:97': OpenCV cannot open it; expected an attached camera (camera:0) or "
            "the URL of a stream",
        ),
    ],
)
def test_a_source_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HaustraError) as error:
        open_source(source)
    assert str(error.value) == message


def test_paths_are_text_or_path_objects(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    folder = write_pictures(tmp_path / "p", 0.5)
    for path in (tmp_path / "a.mp4", folder):
        for given in (path, str(path)):
            with open_source(given) as source:
                assert source.read(0).image_rgb.shape == (64, 64, 3)
    assert ImageFolder(os.fspath(folder)).num_frames == 1


def test_a_stated_number_of_frames_is_not_believed(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi")
    (tmp_path / "a.avi").write_bytes((tmp_path / "a.avi").read_bytes() * 2)
    with open_source(tmp_path / "a.avi") as video:
        assert video.num_frames == 12
        assert len(list(video)) == video.num_frames == 24
    with open_source(tmp_path / "a.avi") as video:
        assert video.index() == pytest.approx([number / 20 for number in range(24)])
        assert video.num_frames == 24
        with pytest.raises(SourceEndedError):
            video.read(24)


def write_shuffled_run(folder: Path) -> Path:
    """Write a run whose frame ids run against its names; `frame_3` has an unreadable label."""
    write_run(folder, *[[(1, 1, 9, 9)]] * 12, frame_rate_hz=4.0)
    for number in range(12):
        stem, label = f"frame_{number:05d}", folder / "labels" / f"frame_{number:05d}.json"
        value = json.loads(label.read_text())
        value |= {"frame_id": 11 - number, "image": f"images/frame_{number}.png"}
        value["sim_time"] = (11 - number) ** 2 / 10
        text = "broken" if number == 3 else json.dumps(value)
        label.unlink()
        (folder / "labels" / f"frame_{number}.json").write_text(text)
        (folder / "images" / f"{stem}.png").rename(folder / "images" / f"frame_{number}.png")
    return folder


def test_infer_view_and_eval_have_one_order_of_frames(tmp_path: Path) -> None:
    folder = write_shuffled_run(tmp_path / "run_a")
    wanted = [11, 10, 9, 8, 7, 6, 5, 4, 2, 3, 1, 0]  # frame_3 stays behind frame_2
    source = ImageFolder(folder)
    assert [path.stem for path in source.images] == [f"frame_{number}" for number in wanted]
    frames = open_captures(folder, target_size_wh=(32, 32), resize_mode="letterbox").frames
    assert [frame.name for frame in frames] == [f"frame_{number}" for number in wanted]
    assert [frame.name for frame in read_run(folder).frames] == [frame.name for frame in frames]


def test_a_run_has_the_times_of_its_labels_if_each_has_one(tmp_path: Path) -> None:
    folder = write_shuffled_run(tmp_path / "run_a")
    assert ImageFolder(folder).index() == [number / 4 for number in range(12)]
    label = folder / "labels" / "frame_3.json"
    text = (folder / "labels" / "frame_2.json").read_text()
    value = json.loads(text) | {"frame_id": 8, "image": "images/frame_3.png", "sim_time": 6.4}
    label.write_text(json.dumps(value))
    source = ImageFolder(folder)
    assert source.index() == pytest.approx([number**2 / 10 for number in range(12)])
    assert source.read(5).seconds == pytest.approx(2.5)
