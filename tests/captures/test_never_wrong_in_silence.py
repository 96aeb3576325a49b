"""An import gives the right boxes, or a note, or one line and exit code 2; nothing in silence."""

import json
import os
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import encoded_image, files_in, noise_image, write_image, write_json
from haustra.captures.reader import read_run
from haustra.cli.main import main
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

SIZE_WH = (64, 48)
BOX = [10, 8, 30, 28]
YOLO_LINE = "0 0.3125 0.375 0.3125 0.416666666667"
Capture = pytest.CaptureFixture[str]


class Importer:
    """Runs `haustra import` in this process on `images` and `labels` of one folder."""

    def __init__(self, root: Path, capsys: Capture) -> None:
        self.root, self.capsys = root, capsys
        (root / "images").mkdir()
        (root / "labels").mkdir()

    def image(self, name: str = "a.png", **settings: Any) -> None:
        write_image(self.root / "images" / name, **{"size_wh": SIZE_WH, **settings})

    def label(self, name: str, content: str | bytes) -> None:
        path = self.root / "labels" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def mask(self, values: NDArray[Any], name: str = "a.png") -> None:
        assert cv2.imwrite(str(self.root / "labels" / name), values)

    def coco(self, images: list[dict[str, Any]], *annotations: dict[str, Any], **more: Any) -> None:
        content = {"images": images, "annotations": list(annotations), **more}
        write_json(self.root / "labels/a.json", content)

    def run(self, layout: str, *options: str, labels: str = "") -> dict[str, Any]:
        labels = labels or ("labels/a.json" if layout == "coco" else "labels")
        paths = [str(self.root / "images"), str(self.root / labels)]
        output = ["--output-root", str(self.root / "captures"), "--run-id", "x", "--overwrite"]
        main(["import", layout, *paths, *output, *options, "--json"])
        shown = self.capsys.readouterr()
        assert shown.err == ""
        result: dict[str, Any] = json.loads(shown.out)
        manifest = json.loads((self.root / "captures/run_x/run_manifest.json").read_text())
        assert manifest["import_result"] == {k: v for k, v in result.items() if k != "run"}
        return result

    def boxes(self, layout: str, *options: str, labels: str = "") -> list[list[list[float]]]:
        self.run(layout, *options, labels=labels)
        frames = read_run(self.root / "captures/run_x").frames
        return [
            [np.round(polyp.bbox_px, 3).tolist() for polyp in frame.label.labels]
            for frame in frames
            if frame.label
        ]

    def refusal(self, layout: str, *options: str, labels: str = "") -> str:
        shutil.rmtree(self.root / "captures", ignore_errors=True)
        with pytest.raises(SystemExit) as stop:
            self.run(layout, *options, labels=labels)
        shown = self.capsys.readouterr()
        assert (stop.value.code, shown.out) == (2, "")
        assert shown.err.startswith("haustra: ")
        assert shown.err.count("\n") == 1
        assert files_in(self.root / "captures") == {}
        return shown.err.removeprefix("haustra: ").replace(f"{self.root}/", "").rstrip()


@pytest.fixture
def data(tmp_path: Path, capsys: Capture) -> Importer:
    return Importer(tmp_path, capsys)


def annotation(image_id: Any, box: Sequence[float] = BOX, **changes: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    bbox = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": image_id, "category_id": 1, "bbox": bbox, **changes}


def voc(*boxes: list[int], size: tuple[object, object] = SIZE_WH, name: str = "polyp") -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    width, height = size
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"{objects}</annotation>"
    )


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF segment with an orientation tag."""
    tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def painted(value: Any, *, background: Any = 0, shape: tuple[int, ...] = (48, 64)) -> Any:
    mask = np.zeros(shape, np.uint16 if np.max(value) > 255 else np.uint8)
    mask[:] = background
    mask[8:28, 10:30] = value
    return mask


# Sizes, orientation, ids


@pytest.mark.parametrize("size", [(128, 96), (63, 48), (48, 64)])
def test_a_size_that_is_not_the_images_is_refused(data: Importer, size: tuple[int, int]) -> None:
    data.image()
    data.label("a.xml", voc(BOX, size=size))
    text = f"is for an image of {size[0]}x{size[1]}; expected the same size"
    assert f"images/a.png is 64x48, but labels/a.xml {text}" in data.refusal("voc")
    (data.root / "labels/a.xml").unlink()
    sizes = {"width": size[0], "height": size[1]}
    data.coco([{"id": 1, "file_name": "a.png", **sizes}], annotation(1))
    assert f"images/a.png is 64x48, but labels/a.json {text}" in data.refusal("coco")


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (64, 0), (" 64 ", "48.0")])
def test_a_size_of_0_is_unknown(data: Importer, size: tuple[object, object]) -> None:
    data.image()
    data.label("a.xml", voc(BOX, size=size))
    assert data.boxes("voc") == [[BOX]]


@pytest.mark.parametrize("size", [("wide", 48), (-64, 48), ("64.5", 48), ("inf", 48)])
def test_a_size_that_is_no_number_of_pixels_is_refused(
    data: Importer, size: tuple[object, object]
) -> None:
    data.image()
    data.label("a.xml", voc(BOX, size=size))
    assert "expected whole numbers of pixels" in data.refusal("voc")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_of_an_image_before_it_is_turned_is_refused(
    data: Importer, orientation: int
) -> None:
    data.image("a.jpg")
    path = data.root / "images/a.jpg"
    path.write_bytes(with_orientation(path.read_bytes(), orientation))
    data.label("a.xml", voc(BOX))
    assert "images/a.jpg is 48x64 after its orientation tag (EXIF)" in data.refusal("voc")
    data.label("a.xml", voc(BOX, size=(48, 64)))
    assert data.boxes("voc") == [[BOX]]
    assert data.run("voc")["notes"] == []


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_orientation_that_keeps_the_size_is_noted(data: Importer, orientation: int) -> None:
    data.image("a.jpg")
    path = data.root / "images/a.jpg"
    path.write_bytes(with_orientation(path.read_bytes(), orientation))
    data.label("a.txt", YOLO_LINE)
    (note,) = data.run("yolo")["notes"]
    assert note == (
        "orientation tag (EXIF): the boxes are taken as drawn on the upright image: 1, first in "
        "'a.jpg'"
    )


@pytest.mark.parametrize(("listed", "joined"), [(7, "7"), ("7", 7), (7.0, 7), ("a-1", "a-1")])
def test_ids_of_another_type_join(data: Importer, listed: Any, joined: Any) -> None:
    data.image()
    data.coco([{"id": listed, "file_name": "a.png"}], annotation(joined))
    assert data.boxes("coco") == [[BOX]]


def test_ids_that_are_used_twice_or_join_nothing_are_refused(data: Importer) -> None:
    for name in ("a.png", "b.png"):
        data.image(name)
    images: list[dict[str, Any]] = [
        {"id": 1, "file_name": "a.png"},
        {"id": "1", "file_name": "b.png"},
    ]
    data.coco(images, annotation(1))
    assert "two images have the id 1" in data.refusal("coco")
    data.coco(images[:1], annotation("01"), annotation(2))
    assert "none of the 2 annotation(s) has the id of an image; expected ids such as '1'" in (
        data.refusal("coco")
    )
    data.coco(images[:1], annotation(1), categories=[{"id": 1, "name": "a"}, {"id": 1, "name": ""}])
    assert "two categories have the same id" in data.refusal("coco")


def test_pixels_where_shares_belong_and_shares_where_pixels_belong_are_refused(
    data: Importer,
) -> None:
    data.image()
    data.label("a.txt", "0 20 18 20 20\n")
    assert "has a value above 1; expected shares of the image, not pixels" in data.refusal("yolo")
    data.coco([{"id": 1, "file_name": "a.png"}], annotation(1, [0.1, 0.2, 0.5, 0.6]))
    assert "is within one pixel; expected pixels, not shares" in data.refusal("coco")


@pytest.mark.parametrize(
    "bbox", [[10**400, 8, 1.5, 20], [1e308, 8, 1e308, 20], ["10", 8, 20, 20], {"x": 1}, None, []]
)
def test_a_box_that_is_no_four_positions_is_rejected(data: Importer, bbox: Any) -> None:
    data.image()
    data.coco([{"id": 1, "file_name": "a.png"}], annotation(1), annotation(1, bbox=bbox))
    result = data.run("coco")
    assert (result["boxes"], result["rejected_boxes"]) == (1, 1)


# Negatives


@pytest.mark.parametrize(
    "text",
    [
        "<annotations><image><box/></image></annotations>",
        "<annotation><Object><bndbox/></Object></annotation>",
        "<annotation><objects><object><bndbox/></object></objects></annotation>",
        "<annotation><polygon><pt><x>1</x></pt></polygon></annotation>",
        f"<data>{voc(BOX)}</data>",
    ],
)
def test_xml_that_is_not_understood_is_no_negative(data: Importer, text: str) -> None:
    data.image()
    data.label("a.xml", text)
    assert "which is not understood; expected a VOC annotation" in data.refusal("voc")


@pytest.mark.parametrize("prefix", ["", "v:"])
def test_a_namespace_changes_nothing(data: Importer, prefix: str) -> None:
    data.image()
    text = voc(BOX).replace("</", f"<!/{prefix}").replace("<", f"<{prefix}")
    text = text.replace(f"<{prefix}!/", "</")
    declared = f'xmlns{":v" if prefix else ""}="urn:voc"'
    data.label("a.xml", text.replace("annotation>", f"annotation {declared}>", 1))
    assert data.boxes("voc") == [[BOX]]


@pytest.mark.parametrize("layout", ["yolo", "voc", "masks", "coco"])
def test_no_label_anywhere_is_refused_unless_it_is_allowed(data: Importer, layout: str) -> None:
    data.image("a.png")
    data.image("b.png", seed=1)
    data.coco([{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}])
    assert "--allow-unlabelled" in data.refusal(layout)
    assert data.boxes(layout, "--allow-unlabelled") == [[], []]


def test_an_image_whose_boxes_are_all_rejected_is_no_negative(data: Importer) -> None:
    for name in ("a.png", "b.png"):
        data.image(name)
    data.label("a.txt", "0 0.5 0.5 0 0.5\n0 nan 0.5 0.1 0.1\n")
    data.label("b.txt", YOLO_LINE)
    assert data.refusal("yolo").startswith(
        "labels/a.txt: all 2 box(es) of 'a.png' are rejected (box [32, 12, 32, 36] is empty); "
    )
    result = data.run("yolo", "--allow-unlabelled")
    assert (result["boxes"], result["rejected_boxes"], result["empty"]) == (1, 2, 1)


def test_crowds_are_rejected_by_name_or_kept(data: Importer) -> None:
    data.image()
    data.coco([{"id": 1, "file_name": "a.png"}], annotation(1, iscrowd=1), annotation(1, iscrowd=1))
    assert "all 2 box(es) of 'a.png' are rejected (crowd region" in data.refusal("coco")
    assert data.boxes("coco", "--keep-crowds") == [[BOX, BOX]]


def test_rejected_boxes_stay_counted_in_the_warehouse(data: Importer) -> None:
    for index, name in enumerate(("a.png", "b.png", "c.png")):
        data.image(name, seed=index)
        data.label(f"{name[0]}.txt", f"{YOLO_LINE}\n" + "0 0.5 0.5 0 0.5\n" * index)
    assert data.run("yolo")["rejected_boxes"] == 3
    warehouse = build_warehouse(
        ETLConfig(captures=data.root / "captures", output_root=data.root / "warehouse")
    )
    manifest = json.loads(warehouse.manifest_path.read_text())
    assert manifest["validation"]["total"]["rejected_boxes"] == 3
    assert "x/frame_00001: box [32, 12, 32, 36] is empty" in manifest["validation"]["problems"]


# Masks


@pytest.mark.parametrize(
    "mask",
    [
        painted(1),
        painted(200, background=50),
        painted(2, background=1),
        painted(4095),
        painted((0, 0, 3), shape=(48, 64, 3)),
        painted((0, 128, 0), shape=(48, 64, 3)),
        painted((0, 60000, 0), shape=(48, 64, 3)),
        painted((200, 200, 200), background=(9, 9, 0), shape=(48, 64, 3)),
        painted((0, 0, 255, 255), background=(0, 0, 0, 255), shape=(48, 64, 4)),
        painted((0, 0, 255, 255), background=(255, 255, 255, 0), shape=(48, 64, 4)),
        painted((255, 255, 255, 255), background=(255, 255, 255, 0), shape=(48, 64, 4)),
        painted((0, 0, 0, 255), background=(0, 0, 0, 0), shape=(48, 64, 4)),
    ],
    ids=lambda mask: f"{mask.dtype}-{mask.shape}-{mask[0, 0].tolist()}-{mask[10, 12].tolist()}",
)
def test_a_mask_of_two_values_works_whatever_they_are(data: Importer, mask: NDArray[Any]) -> None:
    data.image()
    data.mask(mask)
    assert data.boxes("masks") == [[BOX]]


def test_a_mask_of_floats_works_and_one_with_nan_is_refused(data: Importer) -> None:
    data.image()
    mask = painted(1).astype(np.float32)
    data.mask(mask, "a.tiff")
    assert data.boxes("masks") == [[BOX]]
    mask[0, 0] = np.nan
    data.mask(mask, "a.tiff")
    assert "not finite" in data.refusal("masks")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_mask_with_a_palette_works(data: Importer, bits: int) -> None:
    data.image()
    index = painted(1)
    rows = b"".join(b"\0" + pack_row(row.tolist(), bits) for row in index)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", *SIZE_WH, bits, 3, 0, 0, 0)

    def mask(palette: bytes) -> bytes:
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"PLTE", palette)
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b"")
        )

    data.label("a.png", mask(bytes(6)))
    assert "palette of several colors that are all black" in data.refusal("masks")
    data.label("a.png", mask(bytes([0, 0, 0, 0, 0, 128])))
    assert data.boxes("masks") == [[BOX]]
    assert data.run("masks")["classes"] == {"000080": 1}


def pack_row(values: list[int], bits: int) -> bytes:
    text = "".join(f"{value:0{bits}b}" for value in values)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def test_several_values_are_classes_that_must_be_chosen(data: Importer) -> None:
    data.image()
    mask = painted(1)
    mask[30:46, 40:60] = 7
    data.mask(mask)
    message = "the boxes have 2 classes: '1' (1 box), '7' (1 box)"
    assert message in data.refusal("masks")
    assert data.boxes("masks", "--mask-values", "7") == [[[40, 30, 60, 46]]]
    assert data.boxes("masks", "--mask-values", "1, 7") == [[BOX, [40, 30, 60, 46]]]
    assert "--mask-values 9: no box has this class" in data.refusal("masks", "--mask-values", "9")


def test_values_that_differ_from_mask_to_mask_must_be_chosen(data: Importer) -> None:
    for index, value in enumerate([255, 255, 1]):
        data.image(f"{index}.png", seed=index)
        data.mask(painted(value), f"{index}.png")
    assert "'255' (2 boxes), '1' (1 box)" in data.refusal("masks")


def test_smeared_edges_are_cut_in_the_middle_but_a_third_level_is_refused(data: Importer) -> None:
    data.image()
    data.mask(cv2.GaussianBlur(painted(255), (5, 5), 0))
    assert data.boxes("masks") == [[BOX]]
    mask = painted(255)
    mask[30:46, 40:60] = 128
    data.mask(cv2.GaussianBlur(mask, (9, 9), 0))
    assert "expected black and white" in data.refusal("masks")
    data.image("a.png")
    (data.root / "labels/a.png").unlink()
    data.mask(mask, "a.jpg")
    assert "expected black and white" in data.refusal("masks")
    assert data.boxes("masks", "--mask-values", "255")[0][0] == BOX


def test_a_picture_or_a_colored_jpeg_is_not_a_mask(data: Importer) -> None:
    data.image()
    data.mask(noise_image(size_wh=SIZE_WH))
    assert "values in color; expected black and white" in data.refusal("masks")
    (data.root / "labels/a.png").unlink()
    data.mask(painted((0, 0, 255), shape=(48, 64, 3)), "a.jpg")
    assert "values in color; expected black and white" in data.refusal("masks")


def test_an_inverted_mask_is_noted_and_its_polyp_can_be_chosen(data: Importer) -> None:
    data.image()
    data.mask(255 - painted(255))
    assert data.run("masks")["notes"] == ["box that fills the whole image: 1, first in 'a.png'"]
    assert data.boxes("masks", "--mask-values", "0") == [[BOX]]


def test_one_folder_for_images_and_masks_is_refused_without_a_name(data: Importer) -> None:
    data.image("1.png")
    (data.root / "link").symlink_to(data.root / "images")
    assert "is the folder of the images as well" in data.refusal("masks", labels="images")
    assert "is the folder of the images as well" in data.refusal("masks", labels="link")
    cv2.imwrite(str(data.root / "images/p1.png"), painted(255))
    name = ("--mask-name", "p{stem}")
    assert data.boxes("masks", *name, labels="images") == [[BOX]]


@pytest.mark.parametrize("name", ["mask", "{stem}/x", "{stem}{stem}"])
def test_a_mask_name_without_one_stem_is_refused(data: Importer, name: str) -> None:
    data.image()
    assert "expected a file name with '{stem}' once" in data.refusal("masks", "--mask-name", name)


def test_small_components_are_counted(data: Importer) -> None:
    for index in range(2):
        data.image(f"{index}.png", seed=index)
    mask = painted(255)
    mask[40:44, 40:44] = mask[40:44, 50:54] = 255
    data.mask(mask, "0.png")
    mask[:36] = 0
    data.mask(mask, "1.png")
    assert data.run("masks")["notes"] == [
        "component of fewer than 40 pixels, left out: 4, first in '0.png'",
        "mask with such components only, taken as a negative: 1, first in '1.png'",
    ]


# Classes


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_several_classes_are_never_merged_in_silence(data: Importer, layout: str) -> None:
    for index, kind in enumerate(["adenoma", "serrated", "serrated"]):
        data.image(f"{index}.png", seed=index)
        data.label(f"{index}.xml", voc(BOX, name=kind))
        data.label(f"{index}.txt", f"{int(kind == 'serrated')}{YOLO_LINE[1:]}")
    data.label("classes.txt", "adenoma\nserrated\n")
    data.coco(
        [{"id": index, "file_name": f"{index}.png"} for index in range(3)],
        *(annotation(index, category_id=min(index, 1)) for index in range(3)),
        categories=[{"id": 0, "name": "adenoma"}, {"id": 1, "name": "serrated"}],
    )
    assert data.refusal(layout) == (
        "the boxes have 2 classes: 'serrated' (2 boxes), 'adenoma' (1 box); expected one; choose "
        "those that are polyps with --classes serrated"
    )
    assert data.boxes(layout, "--classes", "adenoma") == [[BOX], [], []]
    assert (
        "2 box(es) of class 'serrated' are left out"
        in data.run(layout, "--classes", "adenoma")["notes"]
    )
    assert data.boxes(layout, "--classes", "serrated,adenoma") == [[BOX], [BOX], [BOX]]


def test_names_of_classes_are_compared_in_one_unicode_form(data: Importer) -> None:
    data.image()
    data.label("a.xml", voc(BOX, name=unicodedata.normalize("NFD", "pólyp")))
    chosen = unicodedata.normalize("NFC", "pólyp")
    assert data.boxes("voc", "--classes", chosen) == [[BOX]]


# Names


def test_unicode_forms_and_suffixes_in_capitals_pair(data: Importer) -> None:
    data.image(unicodedata.normalize("NFC", "é1") + ".PNG")
    data.label(unicodedata.normalize("NFD", "é1") + ".TXT", YOLO_LINE)
    assert data.boxes("yolo") == [[BOX]]


def test_two_forms_of_one_name_are_refused(data: Importer) -> None:
    for seed, form in enumerate(("NFC", "NFD")):
        data.image(unicodedata.normalize(form, "é") + ".png", seed=seed)  # type: ignore[arg-type]
    data.label("é.txt", YOLO_LINE)
    assert "have the same stem" in data.refusal("yolo")


def test_bytes_that_are_no_text_in_a_name_are_escaped(data: Importer) -> None:
    name = os.fsdecode(b"\xff\xfe polyp")
    data.image(f"{name}.png")
    data.label(f"{name}.txt", YOLO_LINE)
    assert data.boxes("yolo") == [[BOX]]
    (frame,) = read_run(data.root / "captures/run_x").frames
    assert frame.label is not None
    assert (frame.label.source_name, frame.group_id) == (
        "\\udcff\\udcfe polyp.png",
        "\\udcff\\udcfe polyp",
    )


def test_frames_are_in_natural_order_and_lesions_keep_their_identity(data: Importer) -> None:
    names = ["1_2", "1_10", "1_100", "2_1"]
    for seed, name in enumerate(sorted(names)):
        data.image(f"{name}.png", seed=seed)
        text = voc(BOX).replace("<bndbox>", f"<unique_id>lesion {name[0]}</unique_id><bndbox>")
        data.label(f"{name}.xml", text)
    images = [{"id": name, "file_name": f"{name}.png"} for name in sorted(names)]
    extra: dict[str, Any] = {
        name: {"attributes": {"track_id": f"lesion {name[0]}"}} for name in names
    }
    data.coco(images, *(annotation(name, **extra[name]) for name in names))
    for layout in ("voc", "coco"):
        data.run(layout, "--frame-rate-hz", "25")
        run = read_run(data.root / "captures/run_x")
        assert run.manifest.frame_rate_hz == 25
        labels = [frame.label for frame in run.frames if frame.label]
        assert [label.source_name for label in labels] == [f"{name}.png" for name in names]
        ids = [polyp.lesion_id for label in labels for polyp in label.labels]
        assert ids == ["lesion 1", "lesion 1", "lesion 1", "lesion 2"]


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_links_inside_the_folder_are_followed(data: Importer, layout: str) -> None:
    write_image(data.root / "store/x.png", size_wh=SIZE_WH)
    (data.root / "images/case").symlink_to(data.root / "store")
    (data.root / "images/case/loop").symlink_to(data.root / "images")
    (data.root / "images/a.png").symlink_to(data.root / "store/x.png")
    for name in ("a", "case/x"):
        data.label(f"{name}.txt", YOLO_LINE)
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "case\\x.png"}]
    data.coco(images, annotation(1), annotation(2))
    assert data.boxes(layout) == [[BOX], [BOX]]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("D:\\frames\\a.png", "is not a file in"),
        ("..\\a.png", "points outside"),
        ("/mnt/frames/a.png", "points outside"),
        ("/data/local-files/?d=set/a.png", "points outside"),
        ("a.png/", None),
        ("sub/../a.png", None),
    ],
)
def test_a_path_of_another_machine_is_refused_with_the_name_to_use(
    data: Importer, name: str, problem: str | None
) -> None:
    data.image()
    data.coco([{"id": 1, "file_name": name}], annotation(1))
    if problem is None:
        assert data.boxes("coco") == [[BOX]]
        return
    assert data.refusal("coco") == (
        f"labels/a.json: image {name!r} {problem} {data.root / 'images'}; expected a path inside "
        "it; change the file name to 'a.png'"
    ).replace(f"{data.root}/", "")


def test_images_in_subfolders_and_of_other_formats_are_read_or_named(data: Importer) -> None:
    data.image("top.png")
    for seed, name in enumerate(("case_1/x.png", "case_2/x.png"), start=1):
        data.image(name, seed=seed)
        data.label(name.replace("png", "txt"), YOLO_LINE)
    data.label("top.txt", YOLO_LINE)
    (data.root / "images/y.gif").write_bytes(b"GIF89a")
    result = data.run("yolo")
    assert (result["images"], result["boxes"]) == (3, 3)
    images = data.root / "images"
    assert result["notes"] == [
        f"files of {images} that are not read: 1 .gif",
        f"{images}: the files of 'case_1', 'case_2' go into one run",
    ]


def test_images_that_coco_does_not_list_are_named(data: Importer) -> None:
    for name in ("a.png", "b.png", "sub/c.png"):
        data.image(name)
    data.coco([{"id": 1, "file_name": "a.png"}], annotation(1))
    assert data.run("coco")["notes"] == [
        "2 image(s) are not listed, left out: 'b.png', 'sub/c.png'"
    ]


@pytest.mark.parametrize("wrong", ["labels/a.json", "gone"])
def test_a_message_says_what_is_true_of_a_folder(data: Importer, wrong: str) -> None:
    data.image()
    data.label("a.json", "{}")
    problem = "does not exist" if wrong == "gone" else "is not a folder"
    assert data.refusal("yolo", labels=wrong) == (
        f"{wrong} {problem}; expected a folder of YOLO label files"
    )


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_labels_in_any_unicode_encoding_are_read(data: Importer, encoding: str) -> None:
    data.image()
    data.label("a.txt", f"{YOLO_LINE}\r\n".encode(encoding))
    data.label("a.xml", voc(BOX, name="息肉").encode(encoding))
    data.coco([{"id": 1, "file_name": "a.png"}], annotation(1))
    text = (data.root / "labels/a.json").read_text()
    data.label("a.json", text.encode(encoding))
    for layout in ("yolo", "voc", "coco"):
        assert data.boxes(layout) == [[BOX]]


def test_xml_in_utf_8_that_calls_itself_utf_16_is_read(data: Importer) -> None:
    data.image()
    data.label("a.xml", f'<?xml version="1.0" encoding="utf-16"?>{voc(BOX, name="息肉")}')
    assert data.run("voc")["classes"] == {"息肉": 1}


@pytest.mark.parametrize("encoding", ["gb2312", "GBK", "big5", "shift_jis", "iso-8859-1", "cp1252"])
def test_xml_is_read_in_the_encoding_that_it_declares(data: Importer, encoding: str) -> None:
    name = "Läsion" if encoding in ("iso-8859-1", "cp1252") else "肉"
    data.image()
    text = f'\n<?xml version="1.0" encoding="{encoding}"?>\n{voc(BOX, name=name)}'
    data.label("a.xml", text.encode(encoding))
    assert data.run("voc")["classes"] == {name: 1}
    assert data.boxes("voc") == [[BOX]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (voc(BOX, name="Läsion").encode("latin-1"), "labels/a.xml is not text in utf-8 ("),
        (b'<?xml version="1.0" encoding="ebcdic-xy"?><annotation/>', "declares the encoding"),
        (b'<?xml version="1.0" encoding="rot13"?><annotation/>', "declares the encoding"),
    ],
)
def test_bytes_in_no_stated_encoding_are_refused(
    data: Importer, content: bytes, message: str
) -> None:
    data.image()
    data.label("a.xml", content)
    assert message in data.refusal("voc")


# VOC's first pixel


def test_a_coordinate_0_is_noted_and_files_can_count_from_0(data: Importer) -> None:
    data.image()
    data.label("a.xml", voc([-1, 7, 30, 28]))
    result = data.run("voc")
    assert (result["clipped_boxes"], result["notes"]) == (
        1,
        ["coordinate 0, though VOC counts from 1; see --zero-based: 1, first in 'a.png'"],
    )
    assert data.boxes("voc") == [[[0, 7, 30, 28]]]
    assert data.boxes("voc", "--zero-based") == [[[0, 8, 30, 28]]]


def test_an_object_with_two_boxes_is_refused_and_parts_are_not_objects(data: Importer) -> None:
    data.image()
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    data.label("a.xml", voc(BOX).replace("<bndbox>", f"{part}<bndbox>"))
    assert data.boxes("voc") == [[BOX]]
    data.label("a.xml", voc(BOX).replace("</object>", "<bndbox/></object>"))
    assert data.refusal("voc") == "labels/a.xml: an object has 2 bndbox; expected one"


# All at once


def test_an_import_reports_all_mistakes_with_their_number_and_the_first_ten(data: Importer) -> None:
    for index in range(14):
        data.image(f"{index}.png", seed=index)
        data.label(f"{index}.xml", voc(BOX, size=(1, 1)) if index else "no XML")
    data.label("alone.xml", voc(BOX))
    message = data.refusal("voc")
    assert message.startswith("15 mistakes: (1) 1 VOC annotation(s) of labels have no image")
    assert "(2) labels/0.xml is not XML" in message
    assert "(10) images/8.png is 64x48" in message
    assert "images/9.png" not in message
    assert message.endswith("; and 5 more")


# JPEG


def test_a_whole_jpeg_is_whole_whatever_follows_it(data: Importer) -> None:
    jpeg = encoded_image(size_wh=SIZE_WH, suffix=".jpg")
    trailers = [b"\xff\xda", b"\xff\xda" + b"x" * 99, jpeg, jpeg[: len(jpeg) // 2], b"\0" * 9]
    for index, trailer in enumerate(trailers):
        (data.root / f"images/{index}.jpg").write_bytes(jpeg + trailer)
        data.label(f"{index}.txt", YOLO_LINE)
    assert data.boxes("yolo") == [[BOX]] * len(trailers)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_cut_jpeg_is_cut_even_with_a_whole_thumbnail_in_it(data: Importer, share: float) -> None:
    jpeg = encoded_image(size_wh=SIZE_WH, suffix=".jpg")
    thumbnail = encoded_image(size_wh=(16, 12), suffix=".jpg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = jpeg[:2] + segment + jpeg[2:]
    (data.root / "images/a.jpg").write_bytes(whole)
    data.label("a.txt", YOLO_LINE)
    assert data.boxes("yolo") == [[BOX]]
    start = whole.index(b"\xff\xda", len(segment)) + 2
    (data.root / "images/a.jpg").write_bytes(whole[: start + int(share * (len(whole) - start))])
    assert data.refusal("yolo") == "images/a.jpg is cut short: its end marker is missing"
