"""`haustra import coco` with `videos`: a run for each video, in time, with its lesions."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import files_in, write_image, write_json
from haustra.captures.importers.coco import CocoImportConfig, import_coco
from haustra.captures.importers.dataset import ImportResult
from haustra.captures.reader import Run, read_run
from haustra.cli.main import main
from haustra.core.errors import HaustraError


def image(image_id: int, name: str, **changes: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, **changes}


def box(image_id: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": [4, 4, 8, 8], "category_id": 1, **changes}


def content(**changes: Any) -> dict[str, Any]:
    """Two videos: `ileum` out of order and named against its time, `p2/rectum.mp4` at its end."""
    return {
        "videos": [{"id": 7, "name": "ileum", "fps": 25}, {"id": 9, "file_name": "p2/rectum.mp4"}],
        "images": [
            image(1, "x.png", video_id=7, frame_id=12),
            image(2, "y.png", video_id=7, frame_id=2),
            image(3, "z.png", video_id=7, frame_id=7),
            image(4, "r/0.png", video_id=9, frame_id=0),
            image(5, "r/1.png", video_id=9, frame_id=1),
        ],
        "annotations": [
            box(1, track_id=3),
            box(2, track_id=3),
            box(4, attributes={"track_id": 3, "occluded": False}),
            box(5, track_id=None),
        ],
        "categories": [{"id": 1, "name": "polyp"}],
        **changes,
    }


def write_dataset(root: Path, value: dict[str, Any]) -> tuple[Path, Path]:
    for seed, item in enumerate(value["images"]):
        write_image(root / "ward/images" / item["file_name"], seed=seed)
    write_json(root / "boxes.json", value)
    return root / "ward/images", root / "boxes.json"


def run_import(root: Path, value: dict[str, Any], **changes: Any) -> list[ImportResult]:
    images, annotations = write_dataset(root, value)
    config = CocoImportConfig(output_root=root / "captures", **changes)
    return import_coco(images, annotations, config=config)


def import_error(root: Path, value: dict[str, Any]) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(root, value)
    assert files_in(root / "captures") == {}
    return str(caught.value)


def runs_of(results: list[ImportResult]) -> dict[str, Run]:
    return {run.run_id: run for run in (read_run(result.folder) for result in results)}


def labels_of(run: Run) -> list[tuple[str | None, float | None, list[str | None]]]:
    return [
        (f.label.source_name, f.label.sim_time, [polyp.lesion_id for polyp in f.label.labels])
        for f in run.frames
        if f.label
    ]


def test_each_video_is_a_run_in_the_order_of_its_frame_ids(tmp_path: Path) -> None:
    results = run_import(tmp_path, content())
    runs = runs_of(results)
    assert runs.keys() == {"ward-ileum", "ward-p2-rectum-mp4"}
    ileum, rectum = runs.values()
    assert labels_of(ileum) == [
        ("y.png", 0.0, ["3"]),
        ("z.png", 0.2, []),
        ("x.png", 0.4, ["3"]),
    ]
    assert labels_of(rectum) == [("r/0.png", None, ["3"]), ("r/1.png", None, [None])]
    assert [{f.group_id for f in run.frames} for run in runs.values()] == [
        {"ileum"},
        {"p2/rectum.mp4"},
    ]
    # Every fifth frame of 25 a second.
    assert ileum.manifest.time_order_rate_hz == pytest.approx(5)
    assert rectum.manifest.time_order_rate_hz is None
    assert [result.notes for result in results] == [
        [],
        [
            "not known: frame rate of 'p2/rectum.mp4' (fps: None), which --frame-rate-hz gives",
        ],
    ]


@pytest.mark.parametrize("fps", [{"fps": "29.97"}, {"frame_rate": 29.97}])
def test_a_frame_rate_may_be_text_or_have_another_name(tmp_path: Path, fps: dict[str, Any]) -> None:
    value = content(videos=[{"id": 7, "name": "a", **fps}, {"id": 9, "name": "b", "fps": 0}])
    value["images"][:3] = [image(n, f"{n}.png", video_id=7, frame_id=n + 10) for n in (1, 2, 3)]
    first, second = run_import(tmp_path, value)
    assert read_run(first.folder).manifest.time_order_rate_hz == pytest.approx(29.97)
    assert second.notes == ["not known: frame rate of 'b' (fps: 0), which --frame-rate-hz gives"]


def test_a_given_frame_rate_holds_for_all_videos(tmp_path: Path) -> None:
    results = run_import(tmp_path, content(), frame_rate_hz=30.0)
    runs = runs_of(results)
    assert [run.manifest.time_order_rate_hz for run in runs.values()] == [30, 30]
    names = [name for name, _, _ in labels_of(runs["ward-ileum"])]
    assert names == ["y.png", "z.png", "x.png"]
    assert [result.notes for result in results] == [[], []]


def test_frames_without_a_frame_id_stand_by_their_names(tmp_path: Path) -> None:
    value = content(images=[image(n, f"f_{n}.png", video_id=7) for n in (10, 9, 2)])
    value["annotations"] = [box(9)]
    (result,) = run_import(tmp_path, value)
    names = [name for name, _, _ in labels_of(read_run(result.folder))]
    assert names == ["f_2.png", "f_9.png", "f_10.png"]
    assert result.notes == ["1 video(s) have no image: 'p2/rectum.mp4'"]


def test_images_outside_of_any_video_are_a_run_and_named(tmp_path: Path) -> None:
    value = content()
    value["images"] += [image(20, "still.png"), image(21, "other.png", video_id=None)]
    first, *others = run_import(tmp_path, value)
    assert first.folder.name == "run_ward"
    assert first.notes == [
        "2 image(s) belong to no video, and are a run of their own: 'still.png', 'other.png'"
    ]
    assert [f.group_id for f in read_run(first.folder).frames] == ["still", "other"]
    assert [result.num_images for result in others] == [3, 2]


@pytest.mark.parametrize("videos", [{"videos": []}, {"videos": None}, {}])
def test_a_file_without_videos_is_one_run(tmp_path: Path, videos: dict[str, Any]) -> None:
    value = content(**videos)
    if not videos:
        del value["videos"]
    (result,) = run_import(tmp_path, value)
    assert (result.folder.name, result.num_images, result.notes) == ("run_ward", 5, [])


def test_videos_that_no_image_belongs_to_are_noted(tmp_path: Path) -> None:
    value = content(images=[image(1, "a.png")], annotations=[box(1)])
    (result,) = run_import(tmp_path, value)
    assert result.folder.name == "run_ward"
    assert result.notes == ["no image has the id of one of 2 video(s): they are not used"]


def test_a_pattern_or_a_group_comes_before_the_video(tmp_path: Path) -> None:
    by_pattern = run_import(tmp_path / "a", content(), group_regex="^.")
    assert {f.group_id for f in runs_of(by_pattern)["ward-ileum"].frames} == {"x", "y", "z"}
    by_name = run_import(tmp_path / "b", content(), group="p1")
    assert {f.group_id for run in runs_of(by_name).values() for f in run.frames} == {"p1"}


def test_mistakes_of_all_videos_are_reported_together(tmp_path: Path) -> None:
    value = content()
    value["images"] += [
        image(6, "again.png", video_id=7, frame_id=7),
        image(7, "lost.png", video_id=8, frame_id=1),
    ]
    for item in (value["images"][0], value["images"][4]):
        item |= {"width": 640, "height": 480}
    message = import_error(tmp_path, value)
    path = tmp_path / "boxes.json"
    assert message.startswith("4 mistakes: (1) ")
    assert (
        f"{path}: image 'lost.png' has the video_id 8, which 'videos' does not list; expected one "
        "of its ids"
    ) in message
    assert f"{path}: video 'ileum' has two images of the frame_id 7; expected one" in message
    assert message.count("is for an image of 640x480") == 2


def test_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    value = content(videos=[{"id": 7, "name": "Ileum 1"}, {"id": 9, "name": "ileum-1"}])
    assert import_error(tmp_path, value) == (
        f"{tmp_path / 'boxes.json'}: 2 videos would be the run 'ileum-1'; expected different names"
    )


def test_a_video_without_an_id_is_named(tmp_path: Path) -> None:
    assert import_error(tmp_path, content(videos=[{"name": "a"}])) == (
        f"{tmp_path / 'boxes.json'} is not a COCO annotation file: {{'name': 'a'}} is not an entry "
        "of 'videos' with an id, which is a whole number or text"
    )


def test_classes_hold_for_all_videos(tmp_path: Path) -> None:
    value = content(categories=[{"id": 1, "name": "polyp"}, {"id": 2, "name": "tool"}])
    value["annotations"][2]["category_id"] = 2
    assert "the boxes have 2 classes: 'polyp' (3 boxes)" in import_error(tmp_path, value)
    results = run_import(tmp_path, value, classes="tool")
    assert [result.num_boxes for result in results] == [0, 1]


def test_the_command_prints_a_line_for_each_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, content())
    monkeypatch.chdir(tmp_path)
    main(["import", "coco", "ward/images", "boxes.json"])
    assert capsys.readouterr().out == (
        "captures/run_ward-ileum: 3 images, 2 boxes, 1 without a box, 0 rejected\n"
        "captures/run_ward-p2-rectum-mp4: 2 images, 2 boxes, 0 without a box, 0 rejected\n"
        "  not known: frame rate of 'p2/rectum.mp4' (fps: None), which --frame-rate-hz gives\n"
    )
    main(["import", "coco", "ward/images", "boxes.json", "--overwrite", "--json"])
    assert [run["boxes"] for run in json.loads(capsys.readouterr().out)] == [2, 2]
