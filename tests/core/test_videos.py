"""Writing videos: every codec, odd sizes, and no file after an error."""

import os
from pathlib import Path

import numpy as np
import pytest

from haustra.captures.sources import VideoFile
from haustra.core.errors import HaustraError
from haustra.core.videos import CODEC_OF_SUFFIX, read_stored_stamps, writing_video
from viewing import picture


@pytest.mark.parametrize("suffix", sorted(CODEC_OF_SUFFIX))
def test_a_video_of_odd_size_comes_back_frame_by_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with writing_video(str(path), frame_rate_hz=25.0) as writer:
        for number in range(7):
            writer.add(np.full((61, 83, 3), (20 + 30 * number, 90, 40), dtype=np.uint8))
    video = VideoFile(path, setting="video")
    assert (video.num_frames, round(video.frame_rate_hz, 1)) == (7, 25.0)
    for number in range(7):
        image = video.read(number).image_rgb
        assert image.shape == (62, 84, 3)
        assert np.abs(image.mean(axis=(0, 1)) - (20 + 30 * number, 90, 40)).max() < 12
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_video_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing_video(tmp_path / "a.mp4", frame_rate_hz=10.0) as writer:
            writer.add(picture(0.5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "2024-05-01T10:30:00.mp4",
        "-x.mp4",
        "%d.mp4",
        "a%05d.mkv",
        "concat:a.avi",
        "file:x.webm",
        "two\nlines.mp4",
        "息肉.mp4",
        os.fsdecode(b"caf\xe9.mp4"),
        os.fsdecode(b"caf\xe9.webm"),
    ],
)
def test_every_name_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with writing_video(name, frame_rate_hz=10.0) as writer:
        for number in range(3):
            writer.add(picture(number / 4))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(VideoFile(name))) == 3


def test_a_folder_whose_name_is_not_utf8_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff%d") / "a.mp4"
    with writing_video(path, frame_rate_hz=10.0) as writer:
        writer.add(picture(0.5))
    assert len(list(VideoFile(path))) == 1


@pytest.mark.parametrize("suffix", sorted(CODEC_OF_SUFFIX))
@pytest.mark.parametrize(
    "rate_hz", [0.5, 7.3, 29.97003, 66.6667, 119.94, 119.9404, 239.761, 428.571, 600.0]
)
def test_odd_frame_rates_are_written_nearly(tmp_path: Path, suffix: str, rate_hz: float) -> None:
    path = tmp_path / f"a{suffix}"
    with writing_video(path, frame_rate_hz=rate_hz) as writer:
        for number in range(6):
            writer.add(picture(number / 8), seconds=number / rate_hz)
    assert writer.frame_rate_hz == pytest.approx(rate_hz, rel=1e-3)
    stamps = read_stored_stamps(path)
    assert stamps == pytest.approx([number / rate_hz for number in range(6)], abs=0.002)


def test_a_rate_below_the_lowest_is_written_with_repeated_frames(tmp_path: Path) -> None:
    with writing_video(tmp_path / "a.mp4", frame_rate_hz=0.005) as writer:
        writer.add(picture(0.2), seconds=0.0)
        writer.add(picture(0.4), seconds=200.0)
    assert (writer.frame_rate_hz, writer.num_repeated) == (0.1, 19)
    assert read_stored_stamps(tmp_path / "a.mp4")[-1] == 200.0


@pytest.mark.parametrize(
    ("name", "rate_hz", "told"),
    [
        ("a.avi", 1000.0, "expected a name that ends in .mp4 or .mov or .mkv or .webm"),
        ("a.webm", 5000.0, "expected a name that ends in .mp4 or .mov"),
        ("a.mp4", 1e6, "no format takes it"),
    ],
)
def test_a_rate_that_the_format_does_not_take_is_refused(
    tmp_path: Path, name: str, rate_hz: float, told: str
) -> None:
    with (
        pytest.raises(HaustraError) as caught,
        writing_video(tmp_path / name, frame_rate_hz=rate_hz),
    ):
        pass
    assert str(caught.value).endswith(told)
    assert list(tmp_path.iterdir()) == []


def test_frames_are_repeated_until_the_next_is_due_and_never_left_out(tmp_path: Path) -> None:
    path, values = tmp_path / "a.avi", [0.2, 0.4, 0.6, 0.8]
    with writing_video(path, frame_rate_hz=10.0) as writer:
        for value, seconds in zip(values, [0.0, 0.1, 0.5, 0.51], strict=True):
            writer.add(picture(value), seconds=seconds)
    assert (writer.num_written, writer.num_repeated) == (7, 3)
    shown = [frame.image_rgb.max() / 255 for frame in VideoFile(path)]
    assert shown == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4, 0.6, 0.8], abs=0.05)


def test_a_frame_of_another_size_is_written_too(tmp_path: Path) -> None:
    with writing_video(tmp_path / "a.mp4", frame_rate_hz=10.0) as writer:
        writer.add(picture(0.5))
        writer.add(picture(0.5)[:40, :50])
    assert [f.image_rgb.shape for f in VideoFile(tmp_path / "a.mp4")] == [(64, 64, 3)] * 2
