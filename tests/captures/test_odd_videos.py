"""Every odd video: the frames and times that ffmpeg finds, or one true line."""

import itertools
import random
import shutil
from pathlib import Path

import cv2
import pytest

from haustra.captures.sources import SourceFrame, VideoFile
from haustra.core.errors import HaustraError
from odd_videos import NOTES, PROBLEMS, REFUSED, VIDEOS, decode_with_ffmpeg, number_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"),
]


def read_all(path: Path) -> tuple[list[SourceFrame], str, list[str]]:
    """Return the frames, the error at the end, and the notes."""
    frames: list[SourceFrame] = []
    error = ""
    video = VideoFile(path)
    video.index()
    try:
        frames.extend(video)
    except HaustraError as caught:
        error = str(caught)
    return frames, error, video.notes()


@pytest.mark.parametrize("name", sorted(VIDEOS))
def test_frames_and_times_are_those_that_ffmpeg_finds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    VIDEOS[name](path)
    if name in REFUSED and not (name == "interlaced.ts" and cv2.__version__ < "4.13"):
        with pytest.raises(HaustraError) as caught:
            VideoFile(path)
        assert REFUSED[name] in str(caught.value)
        return
    plain = [frame.number for frame in VideoFile(path)] if name not in PROBLEMS else None
    frames, error, notes = read_all(path)
    numbers, times_s = decode_with_ffmpeg(path)
    assert [number_in(frame.image_rgb) for frame in frames] == numbers
    assert [frame.number for frame in frames] == list(range(len(numbers)))
    assert plain in (None, list(range(len(numbers))))
    ours = [frame.seconds for frame in frames]
    assert all(a < b for a, b in itertools.pairwise(ours))
    if not any("jump" in note or "no time stamps" in note for note in notes):
        theirs = [ours[i] if t is None else t for i, t in enumerate(times_s)]
        assert ours == pytest.approx(theirs, abs=0.001)
    if name in PROBLEMS:
        assert PROBLEMS[name] in error
    else:
        assert error == ""
        assert len(notes) == (name in NOTES)
        assert all(NOTES[name] in note for note in notes)
    assert_frames_are_found_in_any_order(path, frames)


def assert_frames_are_found_in_any_order(path: Path, frames: list[SourceFrame]) -> None:
    video, chosen = VideoFile(path), random.Random(0)
    for _ in range(20):
        number = chosen.randrange(len(frames))
        frame = video.read(number)
        assert number_in(frame.image_rgb) == number_in(frames[number].image_rgb)
        assert frame.seconds == pytest.approx(frames[number].seconds)
    with pytest.raises(HaustraError, match=f"ends before frame {len(frames) + 5}"):
        video.read(len(frames) + 5)
    assert video.num_frames == len(frames)
    assert number_in(video.read(len(frames) - 1).image_rgb) == number_in(frames[-1].image_rgb)
