from pathlib import Path
from typing import Any

import pytest

from builders import write_image
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.paired import VocImportConfig, import_voc
from haustra.captures.reader import read_run
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.errors import HaustraError


def voc_object(x0: object, y0: object, x1: object, y1: object) -> str:
    return (
        "<object><name>polyp</name><bndbox>"
        f"<xmax>{x1}</xmax><xmin>{x0}</xmin><ymin>{y0}</ymin><ymax>{y1}</ymax>"
        "</bndbox></object>"
    )


def voc_file(*objects: str) -> str:
    return f"<annotation><size><width>32</width></size>{''.join(objects)}</annotation>"


def run_import(tmp_path: Path, annotations: dict[str, str], **changes: Any) -> ImportResult:
    """Import images a.png and b.png of 32x24 with these annotation files."""
    root = tmp_path / "data"
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(root / "images" / name, seed=seed)
    (root / "xml").mkdir()
    for name, text in annotations.items():
        (root / "xml" / name).write_text(text)
    config = VocImportConfig(output_root=tmp_path / "captures", **changes)
    return import_voc(root / "images", root / "xml", config=config)


def import_error(tmp_path: Path, annotations: dict[str, str]) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(tmp_path, annotations)
    return str(caught.value)


def boxes_of(result: ImportResult) -> list[list[list[float]]]:
    boxes = []
    for frame in read_run(result.folder).frames:
        checked = check_frame(frame)
        assert isinstance(checked, CheckedFrame)
        boxes.append(checked.boxes_px.tolist())
    return boxes


def test_pixels_counted_from_one_with_both_ends_become_edges(tmp_path: Path) -> None:
    whole, one_pixel = voc_object(1, 1, 32, 24), voc_object(5, 6, 5, 6)
    result = run_import(
        tmp_path, {"a.xml": voc_file(whole, one_pixel), "b.xml": voc_file(voc_object(2.5, 3, 4, 9))}
    )
    assert boxes_of(result) == [[[0, 0, 32, 24], [4, 5, 5, 6]], [[1.5, 2, 4, 9]]]
    assert (result.num_boxes, result.num_clipped) == (3, 0)
    assert result.notes == ["box that fills the whole image: 1, first in 'a.png'"]


def test_a_file_without_objects_is_a_negative(tmp_path: Path) -> None:
    result = run_import(tmp_path, {"a.xml": voc_file(), "b.xml": voc_file()})
    assert boxes_of(result) == [[], []]
    assert result.num_empty == 2


def test_a_bad_box_is_left_out_by_name(tmp_path: Path) -> None:
    annotations = {
        "a.xml": voc_file(
            voc_object(9, 1, 3, 4), voc_object("nan", 1, 3, 4), voc_object(1, 1, 4, 4)
        ),
        "b.xml": voc_file(voc_object(33, 1, 40, 4)),
    }
    result = run_import(tmp_path, annotations, allow_unlabelled=True)
    assert boxes_of(result) == [[[0, 0, 4, 4]], []]
    assert result.notes == [
        "a.png: box [8, 0, 3, 4] is inverted: x1 < x0 or y1 < y0",
        "a.png: box [nan, 0, 3, 4] has a value that is not finite",
        "b.png: box [32, 0, 40, 4] lies outside the 32x24 image",
    ]


@pytest.mark.parametrize(
    "item",
    [
        voc_object("left", 1, 3, 4),
        voc_object("", 1, 3, 4),
        "<object><name>polyp</name></object>",
        "<object><bndbox><xmin>1</xmin></bndbox></object>",
    ],
)
def test_an_object_without_a_box_of_numbers_is_refused(tmp_path: Path, item: str) -> None:
    path = tmp_path / "data/xml/b.xml"
    assert import_error(tmp_path, {"a.xml": voc_file(), "b.xml": voc_file(item)}) == (
        f"{path}: an object lacks a bndbox of four numbers xmin, ymin, xmax, ymax"
    )
    assert list((tmp_path / "captures").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "no element found: line 1, column 12"),
        ("", "no element found: line 1, column 0"),
    ],
)
def test_a_file_that_is_not_xml_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "data/xml/a.xml"
    message = import_error(tmp_path, {"a.xml": text, "b.xml": voc_file()})
    assert message == f"{path} is not XML ({reason}); expected a VOC annotation"


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    text = "<?xml version='1.0' encoding='klingon'?><a/>"
    assert import_error(tmp_path, {"a.xml": text, "b.xml": voc_file()}) == (
        f"{tmp_path / 'data/xml/a.xml'} declares the encoding 'klingon', which is unknown; "
        "expected UTF-8"
    )


def test_an_image_without_an_annotation_is_named(tmp_path: Path) -> None:
    assert import_error(tmp_path, {"a.xml": voc_file()}) == (
        f"1 image(s) of {tmp_path / 'data/images'} have no VOC annotation in "
        f"{tmp_path / 'data/xml'}: 'b'; expected VOC annotations named '{{stem}}', or "
        "allow_unlabelled=True to take such images as negatives"
    )


def test_an_annotation_without_an_image_is_named(tmp_path: Path) -> None:
    annotations = dict.fromkeys(("a.xml", "b.xml", "c.xml", "d.xml"), voc_file())
    assert import_error(tmp_path, annotations) == (
        f"2 VOC annotation(s) of {tmp_path / 'data/xml'} have no image in "
        f"{tmp_path / 'data/images'}: 'c', 'd'; expected an image for each VOC annotation, which "
        "is named '{stem}'"
    )


def test_hidden_files_are_not_annotations(tmp_path: Path) -> None:
    annotations = {"a.xml": voc_file(), "b.xml": voc_file(), "._a.xml": "\0\5"}
    assert run_import(tmp_path, annotations).num_images == 2


def test_a_missing_folder_of_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught:
        import_voc(tmp_path, tmp_path / "xml", config=ImportConfig())
    assert str(caught.value) == (
        f"{tmp_path / 'xml'} does not exist; expected a folder of VOC annotations"
    )
