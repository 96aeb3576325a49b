"""Imports of CVAT, Label Studio and labelme: what they mean, and what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from builders import encoded_image, write_image, write_json
from haustra.captures.importers.cvat import import_cvat, read_cvat
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.importers.label_studio import import_label_studio
from haustra.captures.importers.labelme import import_labelme
from haustra.captures.reader import read_run
from haustra.core.errors import HaustraError

SIZE_WH = (80, 50)
BOX = '<box label="polyp" xtl="1.5" ytl="2" xbr="11" ybr="12.25"/>'


def images_xml(*shapes_of_images: str, size: str = 'width="80" height="50"') -> str:
    images = "".join(
        f'<image id="{n}" name="sub/{n}.png" {size}>{shapes}</image>'
        for n, shapes in enumerate(shapes_of_images)
    )
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f"{head}<annotations><version>1.1</version>{images}</annotations>"


def video_xml(*tracks: str, meta: str = "") -> str:
    task = f"<meta><task><size>20</size>{meta}</task></meta>"
    return f"<annotations><version>1.1</version>{task}{''.join(tracks)}</annotations>"


def box_at(frame: int, *, x: float = 0, outside: int = 0) -> str:
    return f'<box frame="{frame}" outside="{outside}" xtl="{x}" ytl="0" xbr="{x + 10}" ybr="10"/>'


def run_cvat(tmp_path: Path, xml: str, *, num_images: int = 2, **settings: Any) -> ImportResult:
    for number in range(num_images):
        write_image(tmp_path / f"data/images/sub/{number}.png", seed=number, size_wh=SIZE_WH)
    path = tmp_path / "annotations.xml"
    path.write_text(xml)
    config = ImportConfig(output_root=tmp_path / "captures", overwrite=True, **settings)
    return import_cvat(tmp_path / "data/images", path, config=config)


def labels_of(result: ImportResult) -> list[list[tuple[Any, str | None]]]:
    return [
        [(polyp.bbox_px, polyp.lesion_id) for polyp in frame.label.labels]
        for frame in read_run(result.folder).frames
        if frame.label is not None
    ]


def test_boxes_polygons_and_masks_of_cvat_become_boxes(tmp_path: Path) -> None:
    polygon = '<polygon label="polyp" points="5.0,6.0;9.5,4.0;7.0,20.0"/>'
    mask = '<mask label="polyp" rle="1, 2" left="3" top="4" width="5" height="6"/>'
    lesion = BOX.replace("/>", '><attribute name="lesion_id">a</attribute></box>')
    result = run_cvat(tmp_path, images_xml(lesion + polygon + mask, ""))
    assert labels_of(result) == [
        [([1.5, 2, 11, 12.25], "a"), ([5, 4, 9.5, 20], None), ([3, 4, 8, 10], None)],
        [],
    ]
    assert (result.num_empty, result.notes) == (1, [])


def test_boxes_that_a_program_drew_are_noted(tmp_path: Path) -> None:
    result = run_cvat(tmp_path, images_xml(BOX.replace("/>", ' source="auto"/>'), BOX))
    assert result.num_boxes == 2
    assert len(result.notes) == 1
    assert result.notes[0].startswith("box that a program drew (source auto), taken as a label: 1")


def test_shapes_of_cvat_without_a_box_are_counted(tmp_path: Path) -> None:
    turned = BOX.replace("/>", ' rotation="30"/>')
    result = run_cvat(tmp_path, images_xml(BOX + turned, BOX + '<points points="1,2"/>'))
    assert result.num_rejected == 2
    assert result.notes == [
        "sub/0.png: rotated box of CVAT; expected a box, polygon or mask",
        "sub/1.png: points of CVAT; expected a box, polygon or mask",
    ]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (images_xml(BOX, "", size='width="160" height="100"'), r"image of 160x100"),
        (images_xml(BOX, BOX, BOX), r"'sub/2.png' is not a file in"),
        (images_xml(BOX.replace('xtl="1.5"', ""), ""), r"a box lacks a coordinate"),
        (images_xml(BOX, BOX.replace("polyp", "fold")), r"2 classes: 'polyp' \(1 box\), 'fold'"),
        (images_xml("", ""), r"has no annotation for any of its 2 image"),
        ("<annotation><object/></annotation>", r"has the root 'annotation'"),
        ("<annotations><boxes/></annotations>", r"has elements \['boxes'\]"),
        ("<annotations></annotations>", r"no image and no task"),
        (video_xml(f'<track id="0" label="polyp">{box_at(0)}</track>'), r"is for a video"),
        ("<annotations>", r"is not XML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(HaustraError, match=message):
        run_cvat(tmp_path, xml)
    assert not (tmp_path / "captures/run_data").exists()


def frames_of(tmp_path: Path, xml: str) -> dict[int, list[float]]:
    path = tmp_path / "video.xml"
    path.write_text(xml)
    task = read_cvat(path)
    return {n: [box.box_px[0] for box in found.boxes] for n, found in sorted(task.frames.items())}


def test_a_track_is_in_view_from_its_boxes_until_it_is_outside(tmp_path: Path) -> None:
    boxes = [box_at(3), box_at(4, x=1), box_at(5, x=1, outside=1), box_at(9, x=7)]
    track = f'<track id="4" label="polyp">{"".join(boxes)}</track>'
    assert frames_of(tmp_path, video_xml(track)) == {3: [0], 4: [1], 9: [7]}


def test_frames_between_keyframes_get_the_box_on_the_straight_line(tmp_path: Path) -> None:
    boxes = [box_at(2), box_at(6, x=8), box_at(9, x=0, outside=1)]
    track = f'<track id="4" label="polyp">{"".join(boxes)}</track>'
    wanted = {2: [0], 3: [2], 4: [4], 5: [6], 6: [8], 7: [8], 8: [8]}
    assert frames_of(tmp_path, video_xml(track)) == wanted
    every_second = video_xml(track, meta="<frame_filter>step=2</frame_filter>")
    assert frames_of(tmp_path, every_second) == {2: [0], 4: [4], 6: [8], 8: [8]}


def test_the_end_of_a_shape_without_a_box_is_not_counted(tmp_path: Path) -> None:
    ellipse = '<ellipse frame="{}" outside="{}" cx="9" cy="9" rx="4" ry="4"/>'
    shapes = ellipse.format(3, 0) + ellipse.format(5, 1)
    path = tmp_path / "labels.xml"
    path.write_text(video_xml(f'<track id="0" label="polyp">{shapes}</track>'))
    assert {n: len(a.rejected) for n, a in read_cvat(path).frames.items()} == {3: 1}


def test_tracks_of_two_tasks_are_refused(tmp_path: Path) -> None:
    tracks = [f'<track id="0" task_id="{n}" label="polyp">{box_at(0)}</track>' for n in (1, 2)]
    with pytest.raises(HaustraError, match="tracks of 2 tasks"):
        frames_of(tmp_path, video_xml(*tracks))


def region(**changes: Any) -> dict[str, Any]:
    value = {"x": 12.5, "y": 10, "width": 25, "height": 50, "rotation": 0}
    return {
        "type": "rectanglelabels",
        "original_width": 80,
        "original_height": 50,
        "value": {**value, "rectanglelabels": ["polyp"]},
        **changes,
    }


def task(image: str, *results: Any, **changes: Any) -> dict[str, Any]:
    annotations = [{"result": list(result), "was_cancelled": False} for result in results]
    return {"data": {"image": image, "patient": "seven"}, "annotations": annotations, **changes}


def run_label_studio(tmp_path: Path, tasks: Any) -> ImportResult:
    for number in range(3):
        write_image(tmp_path / f"data/images/{number}.png", seed=number, size_wh=SIZE_WH)
    write_json(tmp_path / "tasks.json", tasks)
    config = ImportConfig(output_root=tmp_path / "captures", overwrite=True)
    return import_label_studio(tmp_path / "data/images", tmp_path / "tasks.json", config=config)


def test_percentages_of_label_studio_become_pixels_whatever_the_storage(tmp_path: Path) -> None:
    result = run_label_studio(
        tmp_path,
        [
            task("/data/upload/3/0123abcd-0.png", [region()]),
            task("/data/local-files/?d=ward/images/1.png", []),
            task(
                "s3://bucket/images/2.png",
                [
                    region(
                        type="polygonlabels",
                        value={"points": [[0, 0], [50, 20], [10, 100]], "polygonlabels": ["polyp"]},
                    )
                ],
            ),
        ],
    )
    assert labels_of(result) == [[([10, 5, 30, 30], None)], [], [([0, 0, 40, 50], None)]]


def test_tasks_that_nobody_labeled_are_left_out_and_counted(tmp_path: Path) -> None:
    skipped = task("1.png", [region()])
    skipped["annotations"][0]["was_cancelled"] = True
    predicted = task("2.png", predictions=[{"result": [region()]}])
    result = run_label_studio(tmp_path, [task("0.png", [region()]), skipped, predicted])
    assert (result.num_images, result.num_empty) == (1, 0)
    assert result.notes[0] == "2 task(s) without an annotation are left out"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task("0.png", [region()], [region()])], "has 2 annotations; expected one"),
        ([task("0.png", [region(original_width=160)])], "image of 160x50"),
        ([task("0.png", [{"type": "rectanglelabels"}])], "is incomplete"),
        ([task("0.png")], "none of the 1 tasks has an annotation"),
        ([task("9.png", [region()])], "'9.png' is not a file in"),
        ([{"data": {}}], "with one image in the data"),
        ({"tasks": []}, "holds no tasks"),
        ([task("0.png", [region(image_rotation=90)])], "all 1 box"),
        ([task("0.png", [region(original_height=0)])], "task 1 states no size of its image"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(tmp_path: Path, tasks: Any, message: str) -> None:
    with pytest.raises(HaustraError, match=message):
        run_label_studio(tmp_path, tasks)
    assert not (tmp_path / "captures/run_data").exists()


def test_shapes_of_labelme_become_boxes(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"data/both/{number}.png", seed=number, size_wh=SIZE_WH)
        shapes = [
            {"label": "polyp", "shape_type": "rectangle", "points": [[30, 20], [10, 5]]},
            {"label": "polyp", "points": [[1, 2], [3, 9], [7, 4]]},
            {"label": "polyp", "shape_type": "line", "points": [[1, 2], [3, 9]]},
        ]
        value = {"imagePath": f"{number}.png", "imageData": None, "imageWidth": 80}
        write_json(
            tmp_path / f"data/both/{number}.json",
            value | {"imageHeight": 50, "shapes": shapes if number else shapes[:1]},
        )
    folder, config = tmp_path / "data/both", ImportConfig(output_root=tmp_path / "captures")
    result = import_labelme(folder, folder, config=config)
    assert labels_of(result) == [
        [([10, 5, 30, 20], None)],
        [([10, 5, 30, 20], None), ([1, 2, 7, 9], None)],
    ]
    assert result.notes == ["1.png: line of labelme; expected a rectangle or polygon"]
    path = folder / "1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imageWidth": 160}))
    with pytest.raises(HaustraError, match="image of 160x50"):
        import_labelme(folder, folder, config=ImportConfig(output_root=tmp_path / "again"))
    path.write_text("{}")
    with pytest.raises(HaustraError, match="is incomplete"):
        import_labelme(folder, folder, config=ImportConfig(output_root=tmp_path / "again"))


def write_labelme(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "data/one"
    write_image(folder / "0.png", size_wh=SIZE_WH)
    shape = {"label": "polyp", "shape_type": "rectangle", "points": [[10, 5], [30, 20]]}
    shape |= {name: changes.pop(name) for name in list(changes) if name in shape}
    value = {"imagePath": "0.png", "imageData": None, "imageWidth": 80, "imageHeight": 50}
    write_json(folder / "0.json", value | {"shapes": [shape], **changes})
    return folder


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"label": None}, "(none)"), ({"label": ""}, "(none)"), ({"label": 3}, "3"),
     ({"shape_type": None}, "polyp")],
)  # fmt: skip
def test_a_label_of_labelme_may_be_of_any_type(tmp_path: Path, changes: Any, name: str) -> None:
    folder, config = write_labelme(tmp_path, **changes), ImportConfig(output_root=tmp_path / "c")
    result = import_labelme(folder, folder, config=config)
    assert (result.classes, labels_of(result)) == ({name: 1}, [[([10, 5, 30, 20], None)]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"points": []}, "rectangle of points .*expected .x, y. each"),
     ({"points": [[1, 2, 3], [4, 5, 6]]}, "expected .x, y. each"),
     ({"points": [["1", "2"], ["9", "9"]]}, "is not four numbers"),
     ({"imageData": base64.b64encode(encoded_image(size_wh=(160, 100))).decode()},
      "was drawn on an imageData of 160x100, but its image is 80x50"),
     ({"imageData": base64.b64encode(b"text").decode()}, "the imageData of .* is not an image"),
     ({"imageData": "abc"}, "is incomplete")],
)  # fmt: skip
def test_a_labelme_file_that_does_not_fit_is_refused(
    tmp_path: Path, changes: Any, message: str
) -> None:
    folder, config = write_labelme(tmp_path, **changes), ImportConfig(output_root=tmp_path / "c")
    with pytest.raises(HaustraError, match=message):
        import_labelme(folder, folder, config=config)


def test_the_copy_of_the_image_in_a_labelme_file_is_compared(tmp_path: Path) -> None:
    data = base64.b64encode(encoded_image(size_wh=SIZE_WH)).decode()
    folder = write_labelme(tmp_path, imageData=data)
    result = import_labelme(folder, folder, config=ImportConfig(output_root=tmp_path / "c"))
    assert result.num_boxes == 1
