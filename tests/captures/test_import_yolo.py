from pathlib import Path
from typing import Any

import pytest

from builders import write_image
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.paired import import_yolo
from haustra.captures.reader import read_run
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.errors import HaustraError


def run_import(tmp_path: Path, labels: dict[str, str], **changes: Any) -> ImportResult:
    """Import images a.png and b.png of 40x20 with these label files."""
    root = tmp_path / "data"
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(root / "images" / name, seed=seed, size_wh=(40, 20))
    (root / "labels").mkdir()
    for name, text in labels.items():
        (root / "labels" / name).write_text(text)
    config = ImportConfig(output_root=tmp_path / "captures", **changes)
    return import_yolo(root / "images", root / "labels", config=config)


def import_error(tmp_path: Path, labels: dict[str, str]) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(tmp_path, labels)
    return str(caught.value)


def boxes_of(result: ImportResult) -> list[list[list[float]]]:
    boxes = []
    for frame in read_run(result.folder).frames:
        checked = check_frame(frame)
        assert isinstance(checked, CheckedFrame)
        boxes.append(checked.boxes_px.tolist())
    return boxes


def test_centre_and_size_become_two_corners_in_pixels(tmp_path: Path) -> None:
    labels = {"a.txt": "0 0.5 0.25 0.25 0.5\n\n3 0.25 0.5 0.5 1\n", "b.txt": "0 0.5 0.5 1 1"}
    result = run_import(tmp_path, labels, classes="0,3")
    assert boxes_of(result) == [[[15, 0, 25, 10], [0, 0, 20, 20]], [[0, 0, 40, 20]]]
    assert (result.num_boxes, result.num_empty, result.num_clipped) == (3, 0, 0)
    assert result.notes == ["box that fills the whole image: 1, first in 'b.png'"]


def test_an_image_without_a_label_file_is_a_negative_and_noted(tmp_path: Path) -> None:
    result = run_import(tmp_path, {"a.txt": "0 0.5 0.5 0.5 0.5"})
    assert boxes_of(result) == [[[10, 5, 30, 15]], []]
    assert result.notes == ["1 image(s) have no YOLO label file: taken as negatives"]


def test_an_empty_label_file_is_a_negative(tmp_path: Path) -> None:
    result = run_import(tmp_path, {"a.txt": "", "b.txt": " \n"})
    assert boxes_of(result) == [[], []]
    assert (result.num_empty, result.notes) == (2, [])


@pytest.mark.parametrize(
    "line",
    ["0 0.5 0.5 0.5", "0 0.5 0.5 0.5 0.5 0.9", "polyp 0.5 0.5 0.5 0.5", "0,0.5,0.5,0.5,0.5"],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data/labels/b.txt"
    message = import_error(tmp_path, {"a.txt": "", "b.txt": f"0 0.5 0.5 1 1\n\n{line}\n"})
    assert message == f"{path}, line 3: {line!r}: expected the five numbers 'class cx cy w h'"
    assert list((tmp_path / "captures").iterdir()) == []


def test_a_label_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "data/labels/a.txt").parent.mkdir(parents=True)
    write_image(tmp_path / "data/images/a.png")
    (tmp_path / "data/labels/a.txt").write_bytes(b"0 0.5\xff")
    with pytest.raises(HaustraError) as caught:
        import_yolo(
            tmp_path / "data/images",
            tmp_path / "data/labels",
            config=ImportConfig(output_root=tmp_path / "captures"),
        )
    path = tmp_path / "data/labels/a.txt"
    assert str(caught.value).startswith(f"{path} is not text in utf-8 (")


def test_a_label_file_without_an_image_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert import_error(tmp_path, {"a.txt": "", "d.txt": "", "c.txt": ""}) == (
        f"2 YOLO label file(s) of {root / 'labels'} have no image in {root / 'images'}: 'c', 'd'; "
        "expected an image for each YOLO label file, which is named '{stem}' (1 image(s) have no "
        "YOLO label file: taken as negatives)"
    )


def test_the_list_of_classes_and_hidden_files_are_not_labels(tmp_path: Path) -> None:
    labels = {"a.txt": "", "b.txt": "", "classes.txt": "polyp", "._a.txt": "\0\5"}
    assert run_import(tmp_path, labels).notes == []
