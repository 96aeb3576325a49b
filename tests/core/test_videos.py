"""Writing videos: every codec, odd sizes, and no file after an error."""

from pathlib import Path

import numpy as np
import pytest

from haustra.captures.sources import VideoFile
from haustra.core.videos import CODEC_OF_SUFFIX, writing_video
from viewing import picture


@pytest.mark.parametrize("suffix", sorted(CODEC_OF_SUFFIX))
def test_a_video_of_odd_size_comes_back_frame_by_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with writing_video(str(path), frame_rate_hz=25.0) as add:
        for number in range(7):
            add(np.full((61, 83, 3), (20 + 30 * number, 90, 40), dtype=np.uint8))
    video = VideoFile(path, setting="video")
    assert (video.num_frames, round(video.frame_rate_hz, 1)) == (7, 25.0)
    for number in range(7):
        image = video.read(number).image_rgb
        assert image.shape == (62, 84, 3)
        assert np.abs(image.mean(axis=(0, 1)) - (20 + 30 * number, 90, 40)).max() < 12
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_video_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing_video(tmp_path / "a.mp4", frame_rate_hz=10.0) as add:
            add(picture(0.5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
