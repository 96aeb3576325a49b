"""`haustra import video`: the right frames at the right times, with the labels of CVAT."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from haustra.captures.importers.dataset import ImportResult
from haustra.captures.importers.video import VideoImportConfig, import_video
from haustra.captures.reader import Run, read_run
from haustra.captures.sources import ImageFolder
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.videos import writing_video
from odd_videos import H264, VARIABLE, encode, number_in, numbered

TRACK = (
    "".join(
        f'<box frame="{n}" outside="0" xtl="{n}" ytl="2" xbr="{n + 20}" ybr="22"/>'
        for n in range(10, 20)
    )
    + '<box frame="20" outside="1" xtl="0" ytl="2" xbr="20" ybr="22"/>'
)


TRACK_OF_FRAME = (
    '<track id="0" label="polyp"><box frame="{}" xtl="1" ytl="2" xbr="9" ybr="9"/></track>'
)


def write_labels(path: Path, *, meta: str = "", size: int = 60, tracks: str | None = None) -> Path:
    track = f'<track id="7" label="polyp">{TRACK}</track>' if tracks is None else tracks
    task = f"<meta><task><size>{size}</size>{meta}</task></meta>"
    path.write_text(f"<annotations><version>1.1</version>{task}{track}</annotations>")
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "Case 12.mp4"
    with writing_video(path, frame_rate_hz=30) as writer:
        for number in range(60):
            writer.add(numbered(number), seconds=number / 30)
    return path


def run_import(tmp_path: Path, path: Path, **settings: Any) -> tuple[ImportResult, Run]:
    config = VideoImportConfig(output_root=tmp_path / "captures", overwrite=True, **settings)
    result = import_video(path, config=config)
    return result, read_run(result.folder)


def numbers_in(folder: Path) -> list[int]:
    return [number_in(read_image_rgb(path)) for path in sorted((folder / "images").iterdir())]


def test_tracks_become_lesions_on_their_frames(tmp_path: Path, clip: Path) -> None:
    result, run = run_import(tmp_path, clip, labels=write_labels(tmp_path / "labels.xml"))
    assert (result.folder.name, result.num_images, result.num_boxes) == ("run_case-12", 60, 10)
    assert numbers_in(result.folder) == list(range(60))
    labels = [frame.label for frame in run.frames if frame.label is not None]
    with_box = {label.frame_id: label.labels for label in labels if label.labels}
    assert sorted(with_box) == list(range(10, 20))
    assert all(boxes[0].bbox_px == [n, 2, n + 20, 22] for n, boxes in with_box.items())
    assert {boxes[0].lesion_id for boxes in with_box.values()} == {"7"}
    assert [label.sim_time for label in labels] == pytest.approx([n / 30 for n in range(60)])
    assert run.manifest.time_order_rate_hz == pytest.approx(30)
    assert {frame.group_id for frame in run.frames} == {"Case 12"}


def test_every_from_and_to_choose_frames_by_number_and_time(tmp_path: Path, clip: Path) -> None:
    labels = write_labels(tmp_path / "labels.xml")
    result, run = run_import(tmp_path, clip, labels=labels, every=5, from_=0.3, to=1)
    assert numbers_in(result.folder) == [10, 15, 20, 25]
    assert [len(frame.label.labels) for frame in run.frames if frame.label] == [1, 1, 0, 0]
    assert run.manifest.frame_rate_hz == pytest.approx(6)
    source = ImageFolder(result.folder)
    assert source.index() == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2], abs=1e-3)


def test_only_frames_that_were_labeled_are_taken(tmp_path: Path, clip: Path) -> None:
    meta = "<start_frame>4</start_frame><frame_filter>step=8</frame_filter>"
    box = 'xtl="12" ytl="2" xbr="32" ybr="22"'
    track = f'<box frame="12" outside="0" {box}/><box frame="20" outside="1" {box}/>'
    tracks = f'<track id="7" label="polyp">{track}</track>'
    labels = write_labels(tmp_path / "labels.xml", meta=meta, size=4, tracks=tracks)
    result, run = run_import(tmp_path, clip, labels=labels)
    assert numbers_in(result.folder) == [4, 12, 20, 28]
    assert [len(frame.label.labels) for frame in run.frames if frame.label] == [0, 1, 0, 0]
    assert result.notes == ["56 frame(s) that were not labeled in CVAT are left out"]


def test_without_labels_the_frames_are_unlabeled_and_never_negatives(
    tmp_path: Path, clip: Path
) -> None:
    result, run = run_import(tmp_path, clip, every=20)
    assert (result.num_images, result.num_empty, run.frames) == (3, 0, ())
    assert len(run.unlabeled) == 3
    assert result.notes == ["the frames are unlabeled: no warehouse takes them"]
    result, run = run_import(tmp_path, clip, every=20, allow_unlabelled=True)
    assert (result.num_empty, len(run.frames)) == (3, 3)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ({"meta": "<original_size><width>320</width><height>240</height></original_size>"}, {},
         "has frames of 160x120, but .* is for 320x240"),
        ({"meta": "<frame_filter>step=2</frame_filter>", "size": 30}, {},
         "has shapes on 5 frame.s. outside its own start, stop and step: '11', '13', '15', '17', "
         "'19'; expected every 2 frame.s. from 0 on"),
        ({"size": 12}, {}, "has shapes on 8 frame.s. outside its own start, stop and step: '12'"),
        ({"tracks": TRACK_OF_FRAME.format(-1)}, {}, "on 1 frame.s. outside .*: '-1'"),
        ({"tracks": ""}, {}, "shows no box on any frame; expected some, or allow_unlabelled=True"),
        ({"size": 61}, {}, "is for frames up to 60, but .* has 60"),
        ({"tracks": '<track id="0" label="polyp"><box xtl="1" ytl="1" xbr="2" ybr="2"/></track>'},
         {}, "a box has no frame"),
        ({}, {"from_": 5}, "has no such frame among its 60"),
        ({}, {"classes": "fold"}, "classes='fold': no box has this class"),
    ],
)  # fmt: skip
def test_labels_of_another_video_are_refused(
    tmp_path: Path, clip: Path, labels: Any, settings: Any, message: str
) -> None:
    path = write_labels(tmp_path / "labels.xml", **labels)
    with pytest.raises(HaustraError, match=message):
        run_import(tmp_path, clip, labels=path, **settings)
    assert not (tmp_path / "captures/run_case-12").exists()


def test_a_missing_video_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught:
        import_video(tmp_path / "nowhere.mp4")
    said = caught.value.for_command_line()
    assert said == f"{tmp_path}/nowhere.mp4: expected a video file; it does not exist"


def test_a_time_before_the_beginning_is_refused() -> None:
    with pytest.raises(HaustraError) as caught:
        VideoImportConfig(from_=2, to=1)
    assert caught.value.for_command_line() == "--to 1.0: expected a time after --from 2.0"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_frames_of_a_variable_rate_keep_their_times(tmp_path: Path) -> None:
    path = tmp_path / "variable.mkv"
    encode(path, *H264, *VARIABLE)
    _, run = run_import(tmp_path, path, allow_unlabelled=True)
    times_s = [frame.label.sim_time for frame in run.frames if frame.label]
    wanted = [n / 30 if n < 30 else 1 + (n - 30) / 5 for n in range(60)]
    assert times_s == pytest.approx(wanted, abs=0.001)
    assert run.manifest.frame_rate_hz == pytest.approx(30, rel=0.01)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_cut_video_gives_what_decodes_and_says_what_does_not(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    data = encode(path, *H264, "-movflags", "+faststart")
    path.write_bytes(data[: int(len(data) * 0.6)])
    result, _ = run_import(tmp_path, path, labels=write_labels(tmp_path / "labels.xml"))
    assert 20 < result.num_images < 60
    assert numbers_in(result.folder) == list(range(result.num_images))
    text = json.dumps(result.notes)
    assert "is cut short" in text
    assert f"is for frames up to 59, but {path} has {result.num_images}" in text
