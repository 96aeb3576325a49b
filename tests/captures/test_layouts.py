"""Public datasets as they are unpacked: a tiny copy of each goes through the whole pipeline."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders import write_image
from haustra.captures.importers.dataset import DatasetConfig
from haustra.captures.importers.layouts import LAYOUTS, LayoutName, import_layout
from haustra.captures.reader import Run, read_run, read_runs
from haustra.captures.schema import FrameLabel
from haustra.cli.main import main
from haustra.core.errors import HaustraError

SIZE_WH = (80, 60)
PAGE = Path(__file__).parents[2] / "docs/datasets.md"
BOX = (10, 12, 41, 40)
"""Polyp of every image that has one, `x0,y0,x1,y1` in pixels."""


def write_mask(path: Path, *, has_polyp: bool = True) -> None:
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), np.uint8)
    if has_polyp:
        mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_masks(root: Path, *, images: str, masks: str, count: int = 6, seed: int = 0) -> None:
    """Write images and masks whose paths contain a number."""
    for number in range(count):
        write_image(root / images.format(number), seed=seed + number, size_wh=SIZE_WH)
        write_mask(root / masks.format(number))


def write_kvasir_boxes(root: Path) -> None:
    x0, y0, x1, y1 = BOX
    box = {"label": "polyp", "xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1}
    content = {}
    for number in range(6):
        write_image(root / f"images/cju{number}.jpg", seed=number, size_wh=SIZE_WH)
        content[f"cju{number}"] = {"width": SIZE_WH[0], "height": SIZE_WH[1], "bbox": [box]}
    write_text(root / "kavsir_bboxes.json", json.dumps(content))


def write_kvasir(root: Path) -> None:
    write_masks(root, images="images/cju{}.jpg", masks="masks/cju{}.jpg")


def write_hyper_kvasir(root: Path) -> None:
    inside = "segmented-images"
    write_masks(root, images=f"{inside}/images/cju{{}}.jpg", masks=f"{inside}/masks/cju{{}}.jpg")


def write_clinic(root: Path) -> None:
    write_masks(root, images="Original/{}.png", masks="Ground Truth/{}.png")


def write_etis(root: Path) -> None:
    write_masks(root, images="{}.png", masks="p{}.png")


def write_polypgen(root: Path) -> None:
    for center in range(1, 5):
        write_masks(
            root,
            images=f"data_C{center}/images_C{center}/C{center}_{{}}.jpg",
            masks=f"data_C{center}/masks_C{center}/C{center}_{{}}_mask.jpg",
            count=3,
            seed=10 * center,
        )
    sequence = "sequenceData/positive/seq1/{}_seq1"
    write_masks(
        root,
        images=sequence.format("images") + "/{}.jpg",
        masks=sequence.format("masks") + "/{}_mask.jpg",
        count=2,
        seed=90,
    )
    write_image(root / "sequenceData/negativeOnly/seq2_neg/1.jpg", seed=99, size_wh=SIZE_WH)


def write_sun_seg(root: Path) -> None:
    for case in range(1, 5):
        write_masks(
            root,
            images=f"TrainDataset/Frame/case{case}_1/image_{{}}.jpg",
            masks=f"TrainDataset/GT/case{case}_1/image_{{}}.png",
            count=3,
            seed=10 * case,
        )


def write_listed_sun_seg(root: Path) -> None:
    """Write a split with masks, and one whose boxes are listed as `ymin,xmin,width,height`."""
    write_sun_seg(root)
    x0, y0, x1, y1 = BOX
    for split, cases in (("TrainDataset", range(1, 5)), ("TestEasyDataset/Seen", (5,))):
        images: list[dict[str, object]] = []
        boxes: list[dict[str, object]] = []
        for case in cases:
            for number in range(3):
                own = {"id": f"case{case}_1-image{number}"}
                size = {"width": SIZE_WH[0], "height": SIZE_WH[1]}
                names = {"case_name": f"case{case}_1", "file_name": f"image_{number}"}
                images.append({**own, **size, **names})
                boxes.append({**own, "bbox": [y0, x0, x1 - x0, y1 - y0]})
        content = {"info": {}, "images": images, "annotation": boxes}
        place = root / split.partition("/")[0] / "Detection"
        write_text(place / "bbox_annotation.json", json.dumps(content))
    for number in range(3):
        name = f"TestEasyDataset/Seen/Frame/case5_1/image_{number}.jpg"
        write_image(root / name, seed=50 + number, size_wh=SIZE_WH)
    lines = (f"image_{number}.jpg\tlow_grade_adenoma" for number in range(3))
    write_text(root / "TrainDataset/Classification/classification.txt", "\n".join(lines))


def write_sun(root: Path) -> None:
    part = "sundatabase_positive_part{}"
    for case in range(1, 4):
        lines = []
        for number, name in enumerate(("a2_ayy_image0001", "a10_ayy_image0001")):
            inside = f"{part.format(1 + case // 3)}/case{case}/case_M_001-1_{name}.jpg"
            write_image(root / inside, seed=10 * case + number, size_wh=SIZE_WH)
            lines.append(f"case_M_001-1_{name}.jpg {','.join(map(str, BOX))},0\n")
        write_text(root / part.format(1) / f"annotation_txt/case{case}.txt", "".join(lines))
    name = "sundatabase_negative_part1/case1/case_M_002-1_a1_ayy_image0001.jpg"
    write_image(root / name, seed=99, size_wh=SIZE_WH)


def write_colon(root: Path) -> None:
    """Write CVC-ColonDB: masks `p1.bmp`, regions `s1.bmp` and contours `c1.bmp` beside `1.bmp`."""
    write_masks(root, images="{}.bmp", masks="p{}.bmp")
    for number in range(6):
        write_mask(root / f"s{number}.bmp")
        write_mask(root / f"c{number}.bmp")


def write_clinic_with_sequences(root: Path) -> None:
    """Write CVC-ClinicDB as PNG and TIFF, with the table that names the sequences."""
    for kind in ("PNG", "TIF"):
        suffix = kind.lower()
        images, masks = f"{kind}/Original/{{}}.{suffix}", f"{kind}/Ground Truth/{{}}.{suffix}"
        write_masks(root, images=images, masks=masks)
    rows = [f"{number},{number // 2},/PNG/Original/{number}.png" for number in range(5)]
    header = "frame_id,sequence_id,png_image_path"
    write_text(root / "metadata.csv", "\n".join([header, *rows]))


def write_clinic_videos(root: Path) -> None:
    """Write CVC-VideoClinicDB with its sequences in the names."""
    for video in (1, 2):
        images, masks = f"images/{video}-{{}}.png", f"masks/{video}-{{}}_Polyp.tif"
        write_masks(root, images=images, masks=masks, count=3, seed=10 * video)


def write_clinic_folders(root: Path) -> None:
    """Write CVC-VideoClinicDB with a folder for each sequence, and masks beside the images."""
    for video in (1, 2):
        images, masks = f"{video}/{video}_{{}}.png", f"{video}/{video}_{{}}_mask.png"
        write_masks(root, images=images, masks=masks, count=3, seed=10 * video)


def write_etis_tiff(root: Path) -> None:
    write_masks(root, images="ETIS-LaribPolypDB/{}.tif", masks="ETIS-LaribPolypDB/p{}.tif")


def write_polypgen_boxes(root: Path) -> None:
    """Write centers with boxes alone, under both names, inside the folder of the archive."""
    line = f"polyp {' '.join(map(str, BOX))}\n"
    for center, end in (("C1", "_mask"), ("C2", "")):
        inside = root / f"PolypGen2021_MultiCenterData_v3/data_{center}"
        for number in range(3):
            name = f"{center}_{number}"
            image = inside / f"images_{center}/{name}.jpg"
            write_image(image, seed=number + 10 * int(center[1]), size_wh=SIZE_WH)
            write_text(inside / f"bbox_{center}/{name}{end}.txt", line if number else "\n")


def write_nested_ldpolypvideo(root: Path) -> None:
    write_ldpolypvideo(root / "TrainValid")
    for folder in ("Images", "Annotations"):
        target = root / "Test" / folder
        target.mkdir(parents=True)
        (root / "TrainValid" / folder / "4").rename(target / "101")


def write_ldpolypvideo(root: Path) -> None:
    for video in range(1, 5):
        for number in (1, 2, 10):
            name = f"{video}/{number:04}"
            write_image(root / f"Images/{name}.jpg", seed=10 * video + number, size_wh=SIZE_WH)
            lines = "0\n" if number == 2 else f"1\n{BOX[0]} {BOX[1]} {BOX[2]} {BOX[3]}\n"
            write_text(root / f"Annotations/{name}.txt", lines)


def write_real_colon(root: Path) -> None:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    size = f"<size><width>{SIZE_WH[0]}</width><height>{SIZE_WH[1]}</height><depth>3</depth></size>"
    rows = ["unique_video_name,age,fps"]
    for video in ("001-001", "001-002", "002-001", "003-001"):
        rows.append(f"{video},60,29.97")
        for number in (1, 2, 10):
            name = f"{video}_{number}"
            seed = 20 * int(video.replace("-", "")) + number
            write_image(root / f"{video}_frames/{name}.jpg", seed=seed, size_wh=SIZE_WH)
            polyp = (
                f"<object><name>lesion</name><unique_id>{video}_1</unique_id><box_id>1</box_id>"
                f"<bndbox>{box}</bndbox></object>"
            )
            text = f"<annotation><filename>{name}.jpg</filename>{size}{polyp * (number > 1)}"
            write_text(root / f"{video}_annotations/{name}.xml", f"{text}</annotation>")
    write_text(root / "video_info.csv", "\n".join(rows))
    write_text(
        root / "lesion_info.csv",
        "unique_object_id,unique_video_name,size [mm],site,histology_extended,histology_class\n"
        "001-001_1,001-001,7,cecum,tubular adenoma,AD\n003-001_1,003-001,,,,NO POLYP\n",
    )


WRITERS: dict[LayoutName, Callable[[Path], None]] = {
    "kvasir-seg": write_kvasir,
    "hyper-kvasir": write_hyper_kvasir,
    "cvc": write_clinic,
    "etis": write_etis,
    "polypgen": write_polypgen,
    "sun": write_sun,
    "sun-seg": write_sun_seg,
    "ldpolypvideo": write_ldpolypvideo,
    "real-colon": write_real_colon,
}


OTHER_COPIES: dict[str, tuple[LayoutName, Callable[[Path], None]]] = {
    "kvasir-seg-boxes": ("kvasir-seg", write_kvasir_boxes),
    "colon": ("cvc", write_colon),
    "clinic-with-sequences": ("cvc", write_clinic_with_sequences),
    "clinic-videos": ("cvc", write_clinic_videos),
    "clinic-folders": ("cvc", write_clinic_folders),
    "etis-tiff": ("etis", write_etis_tiff),
    "polypgen-boxes": ("polypgen", write_polypgen_boxes),
    "sun-seg-listed": ("sun-seg", write_listed_sun_seg),
    "ldpolypvideo-nested": ("ldpolypvideo", write_nested_ldpolypvideo),
}
"""Copies of these datasets that are arranged in another way."""


def run_import(tmp_path: Path, name: LayoutName, write: Callable[[Path], None]) -> list[Run]:
    root = tmp_path / "unpacked"
    write(root)
    config = DatasetConfig(output_root=tmp_path / "captures")
    return [read_run(result.folder) for result in import_layout(name, root, config=config)]


def boxes_of(run: Run) -> list[list[list[float]]]:
    labels = [frame.label for frame in run.frames if frame.label is not None]
    return [[polyp.bbox_px for polyp in label.labels] for label in labels]


def test_every_layout_has_a_tiny_copy() -> None:
    assert WRITERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", ["kvasir-seg", "hyper-kvasir", "cvc", "etis"])
def test_masks_give_one_run_of_unrelated_images(tmp_path: Path, name: LayoutName) -> None:
    (run,) = run_import(tmp_path, name, WRITERS[name])
    assert boxes_of(run) == [[list(BOX)]] * 6
    assert len({frame.group_id for frame in run.frames}) == 6
    assert run.manifest.dataset == LAYOUTS[name].dataset
    assert run.manifest.time_order_rate_hz is None
    assert run.manifest.import_result is not None
    assert LAYOUTS[name].not_known in run.manifest.import_result["notes"]


def test_boxes_of_kvasir_are_those_of_its_masks(tmp_path: Path) -> None:
    (boxes,) = run_import(tmp_path / "boxes", "kvasir-seg", write_kvasir_boxes)
    (masks,) = run_import(tmp_path / "masks", "kvasir-seg", write_kvasir)
    assert boxes_of(boxes) == boxes_of(masks)


def test_polypgen_is_held_out_by_center(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "polypgen", write_polypgen)
    assert [run.run_id for run in runs] == [
        *(f"polypgen-c{center}" for center in range(1, 5)),
        "polypgen-seq1",
        "polypgen-seq2-neg",
    ]
    assert [{frame.group_id for frame in run.frames} for run in runs] == [
        *({f"c{center}"} for center in range(1, 5)),
        {"seq1"},
        {"seq2_neg"},
    ]
    assert [len(boxes) for boxes in boxes_of(runs[-1])] == [0]


def test_a_clip_of_sun_seg_belongs_to_its_case_and_needs_its_masks(tmp_path: Path) -> None:
    run, *_ = run_import(tmp_path, "sun-seg", write_sun_seg)
    assert (run.run_id, run.manifest.frame_rate_hz) == ("sun-seg-traindataset-case1-1", 30)
    assert {frame.group_id for frame in run.frames} == {"case1"}
    write_image(tmp_path / "unpacked/TrainDataset/Frame/case9_1/a.jpg", size_wh=SIZE_WH)
    config = DatasetConfig(output_root=tmp_path / "again")
    with pytest.raises(HaustraError, match=r"case9_1 does not exist; expected a folder of masks"):
        import_layout("sun-seg", tmp_path / "unpacked", config=config)


def test_the_folders_of_sun_seg_state_the_splits(tmp_path: Path) -> None:
    root = tmp_path / "unpacked/SUN-SEG-Annotation"
    for seed, inside in enumerate(
        ("TrainDataset", "TestEasyDataset/Seen", "TestHardDataset/Seen", "TestHardDataset/Unseen")
    ):
        clip = f"case{seed}_1/a"
        write_masks(
            root / inside, images=f"Frame/{clip}{{}}.jpg", masks=f"GT/{clip}{{}}.png", seed=9 * seed
        )
    config = DatasetConfig(output_root=tmp_path / "captures")
    runs = [read_run(r.folder) for r in import_layout("sun-seg", root.parent, config=config)]
    assert {run.run_id: run.manifest.split for run in runs} == {
        "sun-seg-traindataset-case0-1": "train",
        "sun-seg-testeasydataset-seen-case1-1": "test",
        "sun-seg-testharddataset-seen-case2-1": "test",
        "sun-seg-testharddataset-unseen-case3-1": "test",
    }
    config = DatasetConfig(output_root=tmp_path / "part")
    (run, *_) = import_layout("sun-seg", root / "TestHardDataset", config=config)
    assert (run.folder.name, read_run(run.folder).manifest.split) == (
        "run_sun-seg-seen-case2-1",
        "test",
    )


def labels_of(run: Run) -> list[FrameLabel]:
    return [frame.label for frame in run.frames if frame.label is not None]


def test_a_case_of_sun_is_one_lesion_in_the_order_of_its_clips(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "sun", write_sun)
    assert [run.run_id for run in runs] == [
        "sun-case1",
        "sun-case2",
        "sun-case3",
        "sun-negative-case1",
    ]
    assert [run.manifest.time_order_rate_hz for run in runs] == [30] * 4
    assert [{frame.group_id for frame in run.frames} for run in runs] == [
        {"case1"},
        {"case2"},
        {"case3"},
        {"negative-case1"},
    ]
    names = [str(label.source_name).split("_")[3] for label in labels_of(runs[0])]
    assert names == ["a2", "a10"]
    assert boxes_of(runs[2]) == [[list(BOX)]] * 2
    assert {label.labels[0].lesion_id for label in labels_of(runs[2])} == {"case3"}
    assert boxes_of(runs[3]) == [[]]


@pytest.mark.parametrize(
    "moves",
    [
        {"sundatabase_positive_part1": "SUN-Positive", "sundatabase_negative_part1": "Negative"},
        {
            "sundatabase_positive_part1": "SUN/positive",
            "sundatabase_positive_part2/case3": "SUN/positive/case3",
            "sundatabase_negative_part1": "SUN/sundatabase_negative",
        },
        {
            "sundatabase_positive_part1/case1": "case1",
            "sundatabase_positive_part1/annotation_txt": "annotation_txt",
        },
    ],
)
def test_sun_may_be_unpacked_elsewhere(tmp_path: Path, moves: dict[str, str]) -> None:
    def write(root: Path) -> None:
        write_sun(root)
        for old, new in moves.items():
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)

    runs = run_import(tmp_path, "sun", write)
    assert [(run.run_id, len(boxes_of(run))) for run in runs] == [
        *((f"sun-case{case}", 2) for case in (1, 2, 3)),
        ("sun-negative-case1", 1),
    ]


def test_lines_of_sun_may_share_an_image_state_no_polyp_or_leave_images_out(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        for number in range(1, 5):
            write_image(root / f"case7/i{number}.jpg", seed=number, size_wh=SIZE_WH)
        lines = "i1.jpg 1,2,11,12,0 20,20,30,30,0\ni2.jpg -1,2,11,12,0\ni3.jpg 0,0,0,0,1\n"
        write_text(root / "annotation_txt/case7.txt", lines + "i2.jpg 20,20,30,30,0\n")

    (run,) = run_import(tmp_path, "sun", write)
    both = [20.0, 20.0, 30.0, 30.0]
    assert boxes_of(run) == [[[1, 2, 11, 12], both], [[0, 2, 11, 12], both], []]
    assert [polyp.lesion_id for label in labels_of(run) for polyp in label.labels] == [None] * 4
    notes = (run.manifest.import_result or {})["notes"]
    assert "1 image(s) are not listed, left out: 'i4.jpg'" in notes
    assert "frame of class 1, which shows no polyp: 1, first in 'i3.jpg'" in notes
    assert "frame with several boxes, of which none gets a lesion: 2, first in 'i1.jpg'" in (notes)


@pytest.mark.parametrize("line", ["i1.jpg 1,2,3,4,2", "i1.jpg 1,2,3,4", "i1.jpg", "i1.jpg a,b,c"])
def test_other_lines_of_sun_are_refused(tmp_path: Path, line: str) -> None:
    write_image(tmp_path / "SUN/case7/i1.jpg", size_wh=SIZE_WH)
    write_text(tmp_path / "SUN/annotation_txt/case7.txt", line)
    with pytest.raises(HaustraError, match=r"case7\.txt, line 1: .* expected 'image\.jpg "):
        import_layout("sun", tmp_path / "SUN")


def test_a_case_of_sun_is_never_a_negative_by_default(tmp_path: Path) -> None:
    write_image(tmp_path / "SUN/positive/case7/i1.jpg", size_wh=SIZE_WH)
    with pytest.raises(HaustraError, match=r"case7 has no annotation_txt/case7\.txt; expected"):
        import_layout("sun", tmp_path / "SUN")
    write_image(tmp_path / "SUN/negative_part1/case1/i1.jpg", size_wh=SIZE_WH)
    write_image(tmp_path / "SUN/negative_part2/case1/i1.jpg", size_wh=SIZE_WH)
    (tmp_path / "SUN/positive/case7/i1.jpg").unlink()
    (tmp_path / "SUN/positive/case7").rmdir()
    with pytest.raises(HaustraError, match="holds these parts twice: 'sun-negative-case1'"):
        import_layout("sun", tmp_path / "SUN")


@pytest.mark.parametrize(("name", "write"), [("sun", write_sun), ("sun-seg", write_sun_seg)])
def test_the_table_of_the_cases_of_sun_states_size_site_and_histology(
    tmp_path: Path, name: LayoutName, write: Callable[[Path], None]
) -> None:
    def write_both(root: Path) -> None:
        write(root)
        rows = [
            "| ID  | Frames | Duration (s) | Shape | Size | Location | Pathological diagnosis |",
            "|-----|--------|--------------|-------|------|----------|------------------------|",
            "| 1_1 | 150 | 5.00 | Is | 6mm | C | Low-grade adenoma |",
            "| 2 | 150 | 5.00 | IIa | 15mm- | S | Hyperplastic polyp |",
        ]
        write_text(root / "INFO_POSITIVE_CASES.md", "\n".join(rows))

    one, two, three = run_import(tmp_path, name, write_both)[:3]
    stated = [
        [
            (polyp.lesion_id, polyp.size_mm, polyp.paris_class, polyp.site, polyp.histology)
            for polyp in labels_of(run)[0].labels
        ]
        for run in (one, two, three)
    ]
    assert stated == [
        [("case1", 6, "0-Is", "cecum", "Low-grade adenoma")],
        [("case2", None, "0-IIa", "sigmoid colon", "Hyperplastic polyp")],
        [("case3", None, None, None, None)],
    ]


def test_masks_tell_the_order_of_the_listed_boxes_of_sun_seg(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "sun-seg", write_listed_sun_seg)
    listed = {run.run_id: run for run in runs}["sun-seg-testeasydataset-seen-case5-1"]
    assert boxes_of(listed) == [[list(BOX)]] * 3
    assert {label.labels[0].lesion_id for label in labels_of(listed)} == {"case5"}
    assert {label.labels[0].histology for label in labels_of(listed)} == {"low_grade_adenoma"}
    (note,) = [n for n in (listed.manifest.import_result or {})["notes"] if "are read as" in n]
    assert note == (
        "boxes of bbox_annotation.json are read as ymin,xmin,width,height, as 12 of 12 masks of "
        "other clips show"
    )


@pytest.mark.parametrize(
    ("order", "box"),
    [
        ("xmin,ymin,width,height", [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]),
        ("xmin,ymin,xmax,ymax", list(BOX)),
    ],
)
def test_listed_boxes_of_sun_seg_may_have_another_order(
    tmp_path: Path, order: str, box: list[int]
) -> None:
    def write(root: Path) -> None:
        write_listed_sun_seg(root)
        for path in root.rglob("bbox_annotation.json"):
            content = json.loads(path.read_text())
            for item in content["annotation"]:
                item["bbox"] = box
            path.write_text(json.dumps(content))

    runs = run_import(tmp_path, "sun-seg", write)
    listed = {run.run_id: run for run in runs}["sun-seg-testeasydataset-seen-case5-1"]
    assert boxes_of(listed) == [[list(BOX)]] * 3
    assert f"read as {order}, as 12 of 12 masks" in str(listed.manifest.import_result)


def test_listed_boxes_of_sun_seg_without_any_mask_say_so(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        write_listed_sun_seg(root)
        shutil.rmtree(root / "TrainDataset/GT")

    runs = run_import(tmp_path, "sun-seg", write)
    assert [boxes_of(run) for run in runs] == [[[list(BOX)]] * 3] * 5
    assert "no mask was there to check it" in str(runs[0].manifest.import_result)


def test_listed_boxes_of_sun_seg_that_fit_no_mask_are_refused(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        write_listed_sun_seg(root)
        for path in (root / "TrainDataset/GT").rglob("*.png"):
            cv2.imwrite(
                str(path), np.full((SIZE_WH[1], SIZE_WH[0]), [0] * 72 + [255] * 8, np.uint8)
            )

    with pytest.raises(HaustraError, match="no box overlaps the mask of its image in any of"):
        run_import(tmp_path, "sun-seg", write)


def test_a_malformed_list_of_sun_seg_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "S/Frame/case1_1/a.jpg", size_wh=SIZE_WH)
    write_text(tmp_path / "S/bbox_annotation.json", '{"images": [{"id": 1}], "annotation": []}')
    with pytest.raises(
        HaustraError, match=r"is incomplete \(KeyError\('case_name'\)\); expected SUN"
    ):
        import_layout("sun-seg", tmp_path / "S")


def test_other_files_of_cvc_colondb_are_counted_and_not_taken(tmp_path: Path) -> None:
    (run,) = run_import(tmp_path, "cvc", write_colon)
    assert boxes_of(run) == [[list(BOX)]] * 6
    notes = (run.manifest.import_result or {})["notes"]
    assert "12 file(s) s1, c1 and so on, of regions and contours: not taken" in notes


@pytest.mark.parametrize("write", [write_clinic_videos, write_clinic_folders])
def test_a_sequence_of_cvc_is_a_run_and_a_group(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    runs = run_import(tmp_path, "cvc", write)
    assert [run.run_id for run in runs] == ["cvc-1", "cvc-2"]
    assert [{frame.group_id for frame in run.frames} for run in runs] == [{"cvc-1"}, {"cvc-2"}]
    assert [boxes_of(run) for run in runs] == [[[list(BOX)]] * 3] * 2


def test_the_table_of_cvc_clinicdb_names_the_sequences(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "cvc", write_clinic_with_sequences)
    assert [run.run_id for run in runs] == ["cvc", "cvc-0", "cvc-1", "cvc-2"]
    assert [sorted({frame.group_id for frame in run.frames}) for run in runs] == [
        ["5"],  # not in the table
        ["cvc-0"],
        ["cvc-1"],
        ["cvc-2"],
    ]
    assert sum(len(run.frames) for run in runs) == 6
    assert "12 image(s) are in no part of the layout, left out: those of 'TIF/" in str(
        runs[0].manifest.import_result
    )


def test_a_name_of_polypgen_may_end_with_a_bar_that_its_mask_lacks(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        inside = root / "data_C3"
        write_image(inside / "images_C3/C3_00489_.jpg", size_wh=SIZE_WH)
        write_mask(inside / "masks_C3/C3_00489_mask.jpg")
        write_text(inside / "masks_C3/C3_00489.txt", "")

    (run,) = run_import(tmp_path, "polypgen", write)
    assert boxes_of(run) == [[list(BOX)]]
    assert "that are not read: 1 .txt" in str(run.manifest.import_result)


def test_boxes_of_polypgen_stand_in_for_masks(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "polypgen", write_polypgen_boxes)
    assert [boxes_of(run) for run in runs] == [[[], [list(BOX)], [list(BOX)]]] * 2
    (tmp_path / "unpacked/PolypGen2021_MultiCenterData_v3/data_C2/bbox_C2/C2_1.txt").write_text(
        "polyp 1 2 3"
    )
    with pytest.raises(HaustraError, match="expected 'polyp xmin ymin xmax ymax'"):
        import_layout(
            "polypgen", tmp_path / "unpacked", config=DatasetConfig(output_root=tmp_path / "again")
        )


def test_nested_folders_of_ldpolypvideo_state_the_split(tmp_path: Path) -> None:
    runs = run_import(tmp_path, "ldpolypvideo", write_nested_ldpolypvideo)
    assert {run.run_id: run.manifest.split for run in runs} == {
        "ldpolypvideo-test-101": "test",
        **{f"ldpolypvideo-trainvalid-{video}": "train" for video in (1, 2, 3)},
    }


def test_videos_of_ldpolypvideo_state_the_number_of_boxes(tmp_path: Path) -> None:
    run, *_ = run_import(tmp_path, "ldpolypvideo", write_ldpolypvideo)
    assert boxes_of(run) == [[list(BOX)], [], [list(BOX)]]
    (tmp_path / "unpacked/Annotations/1/0001.txt").write_text("2\n1 2 3 4\n")
    config = DatasetConfig(output_root=tmp_path / "again")
    with pytest.raises(HaustraError, match="expected the number of boxes"):
        import_layout("ldpolypvideo", tmp_path / "unpacked", config=config)


def test_real_colon_keeps_time_lesions_and_sizes(tmp_path: Path) -> None:
    run, *others = run_import(tmp_path, "real-colon", write_real_colon)
    assert len(others) == 3
    assert (run.run_id, run.manifest.time_order_rate_hz) == ("real-colon-001-001", 29.97)
    labels = [frame.label for frame in run.frames if frame.label is not None]
    assert [label.source_name for label in labels] == [f"001-001_{n}.jpg" for n in (1, 2, 10)]
    assert boxes_of(run) == [[], [list(BOX)], [list(BOX)]]
    polyp = labels[1].labels[0]
    assert (polyp.lesion_id, polyp.size_mm) == ("001-001_1", 7)
    assert (polyp.histology, polyp.site) == ("AD", "cecum")
    told = [run for run in others if "kept: 003-001_1" in str(run.manifest.import_result)]
    assert [run.run_id for run in told] == ["real-colon-003-001"]


def test_a_video_of_real_colon_without_its_row_says_that_its_rate_is_not_known(
    tmp_path: Path,
) -> None:
    write_real_colon(tmp_path / "unpacked")
    (tmp_path / "unpacked/video_info.csv").unlink()
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout("real-colon", tmp_path / "unpacked", config=config)
    assert "not known: frame rate, since video_info.csv lacks 001-001" in result.notes
    assert read_run(result.folder).manifest.time_order_rate_hz is None


@pytest.mark.parametrize("row", ["001-001,60,{}", "001-001,60,{}\n001-002,60,29.97"])
@pytest.mark.parametrize("rate", ["0", "-25", "nan", "inf", "29,97", ""])
def test_a_rate_or_size_that_is_no_number_above_0_is_not_known(
    tmp_path: Path, row: str, rate: str
) -> None:
    root = tmp_path / "unpacked"
    write_real_colon(root)
    write_text(root / "video_info.csv", f"unique_video_name,age,fps\n{row.format(rate)}\n")
    write_text(root / "lesion_info.csv", f"unique_object_id,size [mm]\n001-001_1,{rate}\n")
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout("real-colon", root, config=config)
    run = read_run(result.folder)
    assert "not known: frame rate, since video_info.csv lacks 001-001" in result.notes
    assert run.manifest.time_order_rate_hz is None
    label = run.frames[-1].label
    assert label is not None
    assert label.labels[0].size_mm is None


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("polypgen", "data_C7/images_C7/1.jpg"),
        ("polypgen", "data_C6/images_C6/1.jpg"),
        ("polypgen", "sequenceData/positive/seq9/images_seq9/1.jpg"),
        ("sun-seg", "TrainDataset/Frame/stray.jpg"),
        ("sun-seg", "TrainDataset/GT/case9_1/image_1.png"),
        ("ldpolypvideo", "Images/stray.jpg"),
        ("real-colon", "004-001_frames/004-001_1.jpg"),
        ("kvasir-seg", "more/1.jpg"),
    ],
)
def test_images_of_no_part_are_counted_and_named(
    tmp_path: Path, name: LayoutName, extra: str
) -> None:
    root = tmp_path / "unpacked"
    WRITERS[name](root)
    config = DatasetConfig(output_root=tmp_path / "captures")
    result, *_ = import_layout(name, root, config=config)
    assert not [note for note in result.notes if "in no part" in note]
    write_image(root / extra, size_wh=SIZE_WH)
    results = import_layout(name, root, config=replace(config, overwrite=True))
    notes = [note for result in results for note in result.notes if "in no part" in note]
    folder = extra.rpartition("/")[0]
    assert notes == [f"1 image(s) are in no part of the layout, left out: those of '{folder}'"]


@pytest.mark.parametrize("label", [None, 7])
def test_boxes_of_kvasir_may_have_labels_of_any_type_and_suffixes_in_capitals(
    tmp_path: Path, label: Any
) -> None:
    def write(root: Path) -> None:
        write_kvasir_boxes(root)
        path = next(root.rglob("*.json"))
        content = json.loads(path.read_text())
        for item in content.values():
            for box in item["bbox"]:
                box["label"] = label
        path.write_text(json.dumps(content))
        for image in list(root.rglob("*.jpg")):
            image.rename(image.with_suffix(".JPG"))

    (run,) = run_import(tmp_path, "kvasir-seg", write)
    assert [list(BOX)] in boxes_of(run)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, name: LayoutName) -> None:
    write_image(tmp_path / "unpacked/some/picture.png", size_wh=SIZE_WH)
    with pytest.raises(HaustraError, match="does not have the layout of"):
        import_layout(name, tmp_path / "unpacked")
    with pytest.raises(HaustraError, match="is not a folder; expected"):
        import_layout(name, tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("copy", [*WRITERS, *OTHER_COPIES])
def test_each_layout_goes_from_import_to_evaluation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    copy: str,
) -> None:
    name, write = OTHER_COPIES.get(copy) or next((n, w) for n, w in WRITERS.items() if n == copy)
    write(tmp_path / "unpacked")
    monkeypatch.chdir(tmp_path)
    main(["import", name, "unpacked"])
    shown = f"$ haustra import {name} unpacked\n{capsys.readouterr().out}"
    if copy in WRITERS:
        assert shown in PAGE.read_text(), f"docs/datasets.md does not show:\n{shown}"
    groups = sorted({frame.group_id for run in read_runs("captures") for frame in run.frames})
    write_text(Path("split.json"), json.dumps({"val": groups[:1], "train": groups[1:]}))
    main(["prune"])
    main(["etl", "--target-size", "64", "--split-file", "split.json"])
    (manifest,) = Path("artifacts/tensor_warehouse").glob("*/manifest.json")
    training = ["--epochs", "1", "--checkpoint-out", "tiny.bin"]
    main(["train", "--manifest", str(manifest), "--model", "tiny", *training])
    capsys.readouterr()
    evaluation = ["--split", "val", "--detector-weights", "tiny.bin", "--json"]
    main(["eval", "--manifest", str(manifest), *evaluation])
    assert json.loads(capsys.readouterr().out)
