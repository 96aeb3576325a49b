import json
from pathlib import Path

import numpy as np
import pytest

from builders import files_in, write_frame, write_run
from haustra.captures.overlay import OverlayConfig, draw_overlays
from haustra.core.drawing import TRUTH_RGB
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb


def test_each_frame_gets_a_picture_with_its_boxes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [[4, 6, 20, 18]], [])
    result = draw_overlays(run, config=OverlayConfig())
    assert result.pictures == [run / f"overlays/frame_0000{index}.png" for index in (0, 1)]
    assert result.problems == []
    drawn = read_image_rgb(result.pictures[0])
    rows, columns = np.nonzero((drawn == TRUTH_RGB).all(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (4, 6, 19, 17)
    untouched = read_image_rgb(run / "images/frame_00001.png")
    assert np.array_equal(read_image_rgb(result.pictures[1]), untouched)


def test_the_lesions_name_stands_beside_its_box(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [[40, 60, 90, 90]])
    write_frame(run, size_wh=(120, 100), boxes_px=[[40, 60, 90, 90]])
    plain = read_image_rgb(draw_overlays(run, config=OverlayConfig()).pictures[0])
    label = run / "labels/frame_00000.json"
    value = json.loads(label.read_text())
    value["labels"][0]["lesion_id"] = "run_a/polyp_1"
    label.write_text(json.dumps(value))
    named = read_image_rgb(draw_overlays(run, config=OverlayConfig()).pictures[0])
    assert np.array_equal(named[70:], plain[70:])
    assert not np.array_equal(named[:60], plain[:60])


def test_frames_and_boxes_that_cannot_be_drawn_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [[4, 6, 20, 18], [9, 9, 9, 9]], [])
    (run / "images/frame_00001.png").unlink()
    result = draw_overlays(run, config=OverlayConfig())
    assert [picture.name for picture in result.pictures] == ["frame_00000.png"]
    assert result.problems == [
        "run_a/frame_00000: label 1: box [9, 9, 9, 9] is empty",
        "run_a/images/frame_00001.png does not exist",
    ]


def test_pictures_go_where_they_are_asked_to_and_the_run_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [], [], [])
    before = files_in(run)
    config = OverlayConfig(output_root=tmp_path / "out", max_frames=2)
    result = draw_overlays(run, config=config)
    assert result.pictures == [tmp_path / f"out/frame_0000{index}.png" for index in (0, 1)]
    assert sorted(files_in(tmp_path / "out")) == ["frame_00000.png", "frame_00001.png"]
    assert files_in(run) == before


def test_a_run_of_which_nothing_can_be_drawn_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [])
    (run / "images/frame_00000.png").unlink()
    with pytest.raises(HaustraError) as caught:
        draw_overlays(run, config=OverlayConfig())
    assert str(caught.value) == (
        f"{run}: no frame can be drawn: run_a/images/frame_00000.png does not exist"
    )


def test_a_run_without_frames_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a")
    with pytest.raises(HaustraError) as caught:
        draw_overlays(run, config=OverlayConfig())
    assert str(caught.value) == f"{run}: no frame can be drawn: it has no frames"


def test_no_frames_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(HaustraError) as caught:
        OverlayConfig(max_frames=0)
    assert str(caught.value) == "max_frames=0: expected a whole number of at least 1"
