import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import encoded_image, files_in, write_image
from haustra import __version__
from haustra.captures.reader import read_run
from haustra.captures.schema import RunManifest
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.errors import HaustraError


def write_one(folder: Path, *truths: PolypTruth, overwrite: bool = False, **settings: Any) -> None:
    run: dict[str, Any] = {"run_id": "a", "source": "simulated", "group_id": "g", **settings}
    with writing_run(folder, manifest=RunManifest(**run), overwrite=overwrite) as writer:
        writer.add_frame(
            encoded_image(), suffix=".png", image_size_wh=(32, 24), labels=list(truths)
        )


def test_the_manifest_and_label_hold_the_given_values(tmp_path: Path) -> None:
    truth = PolypTruth(
        bbox_px=(8, 6, 16, 12),
        lesion_id="a/polyp_1",
        center_world=(1.0, 2.0, 3.0),
        visible_fraction=0.5,
        size_mm=6.0,
        paris_class="0-Is",
    )
    with writing_run(
        tmp_path / "run_a",
        manifest=RunManifest(
            run_id="a",
            source="imported",
            group_id=None,
            seed=4,
            started_at_unix=10.5,
            frame_rate_hz=30.0,
            image_size_wh=(32, 24),
            camera={"fov_deg": 90},
            dataset="D",
            licence="L",
            citation="C",
        ),
    ) as writer:
        writer.add_frame(
            encoded_image(suffix=".jpg"),
            suffix=".jpg",
            image_size_wh=(32, 24),
            labels=[truth],
            group_id="patient 1",
            source_name="original.jpg",
            sim_time=0.5,
            unix_time=11.0,
        )
    assert json.loads((tmp_path / "run_a/run_manifest.json").read_text()) == {
        "schema_version": 1,
        "run_id": "a",
        "source": "imported",
        "group_id": None,
        "seed": 4,
        "started_at_unix": 10.5,
        "frame_rate_hz": 30.0,
        "num_frames": 1,
        "image_size_wh": [32, 24],
        "camera": {"fov_deg": 90},
        "simulation": None,
        "haustra_version": __version__,
        "dataset": "D",
        "licence": "L",
        "citation": "C",
    }
    assert json.loads((tmp_path / "run_a/labels/frame_00000.json").read_text()) == {
        "schema_version": 1,
        "frame_id": 0,
        "sim_time": 0.5,
        "unix_time": 11.0,
        "image": "images/frame_00000.jpg",
        "image_present": True,
        "camera_active": True,
        "label_seed": 4,
        "source": "imported",
        "source_name": "original.jpg",
        "group_id": "patient 1",
        "labels": [
            {
                "lesion_id": "a/polyp_1",
                "center_world": [1.0, 2.0, 3.0],
                "bbox_px": [8.0, 6.0, 16.0, 12.0],
                "bbox_norm": [0.25, 0.25, 0.5, 0.5],
                "visible_fraction": 0.5,
                "size_mm": 6.0,
                "paris_class": "0-Is",
            }
        ],
    }


boxes_inside = st.tuples(
    st.floats(0, 15.9), st.floats(0, 11.9), st.floats(16, 32), st.floats(12, 24)
)


@settings(max_examples=20, deadline=None)
@given(st.lists(boxes_inside, max_size=3))
def test_boxes_are_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, boxes_px: list[tuple[float, float, float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("captures") / "run_a"
    write_one(folder, *(PolypTruth(bbox_px=box) for box in boxes_px))
    (frame,) = read_run(folder).frames
    checked = check_frame(frame)
    assert isinstance(checked, CheckedFrame)
    assert [tuple(box) for box in checked.boxes_px] == boxes_px
    assert (checked.box_problems, checked.num_clipped) == ((), 0)
    assert frame.label is not None
    for polyp, box in zip(frame.label.labels, boxes_px, strict=True):
        assert np.allclose(np.array(polyp.bbox_norm) * [32, 24, 32, 24], box, atol=1e-12)


def test_frames_are_numbered_and_files_kept_byte_for_byte(tmp_path: Path) -> None:
    original = write_image(tmp_path / "photo.jpg", seed=3)
    with writing_run(
        tmp_path / "run_a", manifest=RunManifest(run_id="a", source="imported", group_id=None)
    ) as writer:
        for image in (encoded_image(2), tmp_path / "photo.jpg"):
            suffix = ".png" if isinstance(image, bytes) else ".jpg"
            writer.add_frame(image, suffix=suffix, image_size_wh=(32, 24), labels=[])
    files = files_in(tmp_path / "run_a")
    assert files["images/frame_00000.png"] == encoded_image(2)
    assert files["images/frame_00001.jpg"] == original
    assert [frame.sample_id for frame in read_run(tmp_path / "run_a").frames] == [
        "a/frame_00000",
        "a/frame_00001",
    ]


def write_and_fail(folder: Path, *, error: BaseException, overwrite: bool = False) -> None:
    with writing_run(
        folder,
        manifest=RunManifest(run_id="a", source="imported", group_id=None),
        overwrite=overwrite,
    ) as writer:
        writer.add_frame(encoded_image(), suffix=".png", image_size_wh=(32, 24), labels=[])
        raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_and_fail(tmp_path / "run_a", error=error)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_replacing_keeps_the_old_run(tmp_path: Path) -> None:
    write_one(tmp_path / "run_a", PolypTruth(bbox_px=(1, 2, 3, 4)))
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match="stop"):
        write_and_fail(tmp_path / "run_a", error=ValueError("stop"), overwrite=True)
    assert files_in(tmp_path) == before


def test_a_box_without_a_json_spelling_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_one(tmp_path / "run_a", PolypTruth(bbox_px=(float("nan"), 0, 1, 1)))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_written_after_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing_run(
        tmp_path / "run_a", manifest=RunManifest(run_id="a", source="imported", group_id=None)
    ) as writer:
        writer.add_frame(encoded_image(), suffix=".png", image_size_wh=(32, 24), labels=[])
        assert "run_manifest.json" not in files_in(writer.folder)
        assert not (tmp_path / "run_a").exists()
    assert "run_manifest.json" in files_in(tmp_path / "run_a")


def test_an_existing_run_is_refused_and_replaced_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "run_a"
    write_one(folder)
    with pytest.raises(HaustraError) as caught:
        write_one(folder)
    assert str(caught.value) == f"{folder} exists already; remove it or pass overwrite=True"
    write_one(folder, overwrite=True, dataset="new")
    assert read_run(folder).manifest.dataset == "new"
