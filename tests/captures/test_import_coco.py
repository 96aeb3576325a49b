from pathlib import Path
from typing import Any

import pytest

from builders import files_in, write_image, write_json
from haustra.captures.importers.coco import CocoImportConfig, import_coco
from haustra.captures.importers.dataset import ImportConfig, ImportResult, as_text
from haustra.captures.reader import read_run
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.errors import HaustraError

POLYP, FOLD = 1, 2


def annotation(image_id: Any, bbox: Any, **changes: Any) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": bbox, "category_id": POLYP, "iscrowd": 0, **changes}


def content(*annotations: Any, **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 10, "file_name": "b.png"}, {"id": 11, "file_name": "sub/a.png"}],
        "annotations": list(annotations),
        "categories": [{"id": POLYP, "name": "polyp"}, {"id": FOLD, "name": "fold"}],
        **changes,
    }


def write_dataset(tmp_path: Path, value: Any) -> tuple[Path, Path]:
    images, annotations = tmp_path / "Real Colon/frames", tmp_path / "instances.json"
    for seed, name in enumerate(("b.png", "sub/a.png")):
        write_image(images / name, seed=seed)
    write_image(tmp_path / "Real Colon/secret.png", seed=9)
    write_json(annotations, value)
    return images, annotations


def run_import(tmp_path: Path, value: Any, **changes: Any) -> ImportResult:
    images, annotations = write_dataset(tmp_path, value)
    config = CocoImportConfig(**{"output_root": tmp_path / "captures", **changes})
    [result] = import_coco(images, annotations, config=config)
    return result


def import_error(tmp_path: Path, value: Any, **changes: Any) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(tmp_path, value, **changes)
    return str(caught.value)


def boxes_of(result: ImportResult) -> list[list[list[float]]]:
    boxes = []
    for frame in read_run(result.folder).frames:
        checked = check_frame(frame)
        assert isinstance(checked, CheckedFrame)
        boxes.append(checked.boxes_px.tolist())
    return boxes


def test_corner_and_size_become_two_corners(tmp_path: Path) -> None:
    result = run_import(
        tmp_path,
        content(
            annotation(11, [1, 2, 10, 5.5]), annotation(10, [4, 4, 4, 4]), annotation(11, [0] * 4)
        ),
    )
    assert boxes_of(result) == [[[4, 4, 8, 8]], [[1, 2, 11, 7.5]]]
    assert result.notes == ["sub/a.png: box [0, 0, 0, 0] is empty"]
    assert (result.num_images, result.num_boxes, result.num_empty) == (2, 2, 0)
    assert result.folder.name == "run_real-colon"
    names = [f.label and f.label.source_name for f in read_run(result.folder).frames]
    assert names == ["b.png", "sub/a.png"]


def test_images_of_one_stem_in_two_folders_are_two_groups(tmp_path: Path) -> None:
    images = [{"id": 10, "file_name": "b.png"}, {"id": 11, "file_name": "sub/b.png"}]
    write_image(tmp_path / "Real Colon/frames/sub/b.png", seed=5)
    run = read_run(run_import(tmp_path, content(images=images), allow_unlabelled=True).folder)
    assert [frame.group_id for frame in run.frames] == ["b", "sub/b"]


def test_a_pattern_can_take_the_folder_as_the_group(tmp_path: Path) -> None:
    images, annotations = write_dataset(
        tmp_path, content(images=[{"id": 11, "file_name": "sub/a.png"}])
    )
    config = ImportConfig(
        output_root=tmp_path / "captures", group_regex="^(.+)/", allow_unlabelled=True
    )
    [result] = import_coco(images, annotations, config=config)
    run = read_run(result.folder)
    assert [frame.group_id for frame in run.frames] == ["sub"]


def test_an_image_without_an_annotation_is_a_negative(tmp_path: Path) -> None:
    result = run_import(tmp_path, content(annotation(10, [4, 4, 4, 4])))
    assert boxes_of(result) == [[[4, 4, 8, 8]], []]
    assert (result.num_empty, result.notes) == (1, [])


def test_boxes_that_leave_the_image_are_clipped_and_counted(tmp_path: Path) -> None:
    result = run_import(tmp_path, content(annotation(10, [-4, 20, 10, 10])))
    assert boxes_of(result)[0] == [[0, 20, 6, 24]]
    assert result.num_clipped == 1


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([1, 2, -3, 4], "box [1, 2, -2, 6] is inverted: x1 < x0 or y1 < y0"),
        ([1, 2, 3], "box [1, 2, 3] is not four numbers x0,y0,x1,y1"),
        ([1, 2, True, 3], "box [1, 2, True, 3] is not four numbers x0,y0,x1,y1"),
        (None, "box None is not four numbers x0,y0,x1,y1"),
    ],
)
def test_a_bad_box_is_left_out_by_name(tmp_path: Path, bbox: Any, reason: str) -> None:
    result = run_import(tmp_path, content(annotation(10, [4, 4, 4, 4]), annotation(10, bbox)))
    assert boxes_of(result)[0] == [[4, 4, 8, 8]]
    assert result.notes == [f"b.png: {reason}"]


def test_crowds_are_left_out_and_noted(tmp_path: Path) -> None:
    crowd = annotation(10, {"counts": []}, iscrowd=1)
    result = run_import(tmp_path, content(crowd, annotation(10, [4, 4, 4, 4])))
    assert boxes_of(result)[0] == [[4, 4, 8, 8]]
    assert result.notes == ["b.png: crowd region, whose box --keep-crowds takes"]
    assert result.num_rejected == 1


def test_boxes_of_chosen_classes_are_taken(tmp_path: Path) -> None:
    value = content(annotation(10, [4, 4, 4, 4]), annotation(10, [1, 1, 2, 2], category_id=FOLD))
    both = run_import(tmp_path / "all", value, classes="polyp,fold")
    assert boxes_of(both)[0] == [[4, 4, 8, 8], [1, 1, 3, 3]]
    only = run_import(tmp_path / "only", value, classes="fold")
    assert boxes_of(only)[0] == [[1, 1, 3, 3]]
    assert only.notes == ["1 box(es) of class 'polyp' are left out"]
    assert only.classes == {"polyp": 1, "fold": 1}


def test_an_unknown_class_is_refused_with_those_there_are(tmp_path: Path) -> None:
    value = content(annotation(10, [4, 4, 4, 4]))
    assert import_error(tmp_path, value, classes="Polyp") == (
        "classes='Polyp': no box has this class; expected one of 'polyp' (1 box)"
    )


def test_annotations_of_unlisted_images_are_noted(tmp_path: Path) -> None:
    value = content(annotation(10, [4, 4, 4, 4]), annotation(99, [1, 1, 2, 2]))
    assert run_import(tmp_path, value).notes == [
        "1 annotation(s) have an image id that is not listed"
    ]


@pytest.mark.parametrize(
    "name", ["../secret.png", "{tmp_path}/Real Colon/secret.png", "sub/../../secret.png"]
)
def test_an_image_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    name = name.format(tmp_path=tmp_path)
    images, annotations = tmp_path / "Real Colon/frames", tmp_path / "instances.json"
    assert (
        import_error(
            tmp_path, content(images=[{"id": 10, "file_name": name}]), allow_unlabelled=True
        )
        == f"{annotations}: image {name!r} points outside {images}; expected a path inside it"
    )
    assert files_in(tmp_path / "captures") == {}


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    value = content(images=[{"id": 10, "file_name": "gone.png"}])
    assert import_error(tmp_path, value, allow_unlabelled=True) == (
        f"{tmp_path / 'instances.json'}: image 'gone.png' is not a file in "
        f"{tmp_path / 'Real Colon/frames'}; expected a path inside it"
    )


@pytest.mark.parametrize(
    ("stored", "listed"),
    [
        ("polype\u0301.png", "polyp\u00e9.png"),
        ("polyp\u00e9.png", "polype\u0301.png"),
        ("c.PNG", "c.png"),
        ("c.png", "c.PNG"),
        ("deep/c.Png", "deep\\c.png"),
    ],
)
def test_names_match_in_any_unicode_form_and_suffixes_in_any_case(
    tmp_path: Path, stored: str, listed: str
) -> None:
    write_image(tmp_path / "Real Colon/frames" / stored)
    image = {"id": 10, "file_name": listed}
    result = run_import(tmp_path, content(annotation(10, [4, 4, 4, 4]), images=[image]))
    (frame,) = read_run(result.folder).frames
    assert frame.label is not None
    assert frame.label.source_name == as_text(stored)


def test_a_name_that_matches_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("c.PNG", "c.pNg"):
        write_image(tmp_path / "Real Colon/frames" / name)
    value = content(annotation(10, [4, 4, 4, 4]), images=[{"id": 10, "file_name": "c.png"}])
    assert "image 'c.png' is not a file in" in import_error(tmp_path, value)


def test_the_file_that_a_url_means_is_suggested(tmp_path: Path) -> None:
    write_image(tmp_path / "Real Colon/frames/left colon.png")
    image = {"id": 10, "file_name": "http://server/left%20colon.png"}
    message = import_error(tmp_path, content(annotation(10, [4, 4, 4, 4]), images=[image]))
    assert message.endswith("change the file name to 'left colon.png'")


def test_boxes_at_the_same_place_are_noted(tmp_path: Path) -> None:
    box = annotation(10, [4, 4, 4, 4])
    assert (
        run_import(tmp_path, content(box, box))
        .notes[-1]
        .startswith("boxes at the same place, all of which are kept: 1, first in")
    )


SHAPE = "is not an entry of 'images' or 'annotations', whose ids are whole numbers or text"
LISTS = "; expected an object with lists 'images' and 'annotations'"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], LISTS),
        ({"images": []}, LISTS),
        (content(annotations=None), LISTS),
        (content(images={"10": "b.png"}), LISTS),
        (content({"image_id": 10}), ": the entry {'image_id': 10} lacks 'bbox'"),
        (content({"bbox": [0, 1]}), ": the entry {'bbox': [0, 1]} lacks 'image_id'"),
        (content(images=[{"file_name": "b"}]), ": the entry {'file_name': 'b'} lacks 'id'"),
        (content(images=[{"id": 10}]), ": the entry {'id': 10} lacks 'file_name'"),
        (content("b.png"), f": 'b.png' {SHAPE}"),
        (content({"image_id": [10]}), f": {{'image_id': [10]}} {SHAPE}"),
        (content(images=[{"id": None, "file_name": 7}]),
         f": {{'id': None, 'file_name': 7}} {SHAPE}"),
        (content(categories=[{"id": 1}]), ": a category lacks its id or name"),
        (content(categories=["polyp"]), ": a category lacks its id or name"),
        (content(categories=None), ": a category lacks its id or name"),
    ],
)  # fmt: skip
def test_a_file_of_another_shape_is_refused(tmp_path: Path, value: Any, reason: str) -> None:
    annotations = tmp_path / "instances.json"
    assert import_error(tmp_path, value) == f"{annotations} is not a COCO annotation file{reason}"
    assert not (tmp_path / "captures").exists()


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    assert import_error(tmp_path, content(images=[])) == f"{annotations} lists no image"


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.json"
    with pytest.raises(HaustraError) as caught:
        import_coco(tmp_path, path, config=ImportConfig(output_root=tmp_path / "captures"))
    assert str(caught.value) == f"{path} does not exist; expected a COCO annotation file"
