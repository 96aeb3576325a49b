"""Four labeled images in each format and layout, and readers that know nothing of the importers.

A reader returns the boxes that the files state for each image, `x0,y0,x1,y1` in pixels, with NaN
for what cannot be a box.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from builders import write_image, write_json
from haustra.core.videos import writing_video

SIZE_WH = (64, 48)
BOXES: tuple[list[list[int]], ...] = (
    [[4, 6, 20, 30], [30, 8, 60, 40]],
    [[10, 10, 26, 34]],
    [],
    [[2, 3, 12, 15]],
)
NUM_VIDEO_FRAMES = 8
NO_BOX = [math.nan] * 4
SIDES = ("xmin", "ymin", "xmax", "ymax")
CORNERS = ("xtl", "ytl", "xbr", "ybr")

FOLDERS = {
    "polypgen": ("data_C1/images_C1", "data_C1/masks_C1"),
    "sun-seg": ("Frame/case1_1", "GT/case1_1"),
    "ldpolypvideo": ("Images/1", "Annotations/1"),
    "real-colon": ("001-001_frames", "001-001_annotations"),
    "kvasir-seg": ("images", "."),
}
"""Folders of images and labels of the layouts; `images` and `labels` elsewhere."""
MASKS = ("masks", "polypgen", "sun-seg")
LISTS = {
    "coco": "a.json",
    "label-studio": "a.json",
    "cvat": "a.xml",
    "video": "a.xml",
    "kvasir-seg": "kavsir_bboxes.json",
}
"""File of the formats with one file for all images."""
FORMATS = ("coco", "yolo", "voc", "masks", "cvat", "label-studio", "labelme", "video", *FOLDERS)

Boxes = list[list[float]]


def write_dataset(root: Path, layout: str) -> tuple[list[Path], list[str]]:
    """Write four images, or a video, with labels.

    Returns:
        The label files, and the arguments of `haustra import`.
    """
    images, labels = (root / name for name in FOLDERS.get(layout, ("images", "labels")))
    labels.mkdir(parents=True, exist_ok=True)
    for index in range(len(BOXES)):
        if layout != "video":
            write_image(images / f"{index}.png", seed=index, size_wh=SIZE_WH)
    text_of = {
        "yolo": yolo_text,
        "voc": voc_text,
        "real-colon": voc_text,
        "labelme": labelme_text,
        "ldpolypvideo": ldpolypvideo_text,
    }
    if layout in LISTS:
        write_list(labels / LISTS[layout], layout)
    for index, boxes in enumerate(BOXES):
        if layout in MASKS:
            mask = np.zeros(SIZE_WH[::-1], np.uint8)
            for x0, y0, x1, y1 in boxes:
                mask[y0:y1, x0:x1] = 255
            name = f"{index}_mask.png" if layout == "polypgen" else f"{index}.png"
            cv2.imwrite(str(labels / name), mask)
        elif layout in text_of:
            suffix = {"yolo": "txt", "ldpolypvideo": "txt", "labelme": "json"}.get(layout, "xml")
            (labels / f"{index}.{suffix}").write_text(text_of[layout](index, boxes))
    files = sorted(path for path in labels.iterdir() if path.is_file())
    if layout == "real-colon":
        for name, value in (("video_info.csv", "fps"), ("lesion_info.csv", "size [mm]")):
            keys = {"fps": "unique_video_name", "size [mm]": "unique_object_id"}
            (root / name).write_text(f"{keys[value]},{value}\n001-001,25\n")
            files.append(root / name)
    if layout in FOLDERS:
        return files, [layout, str(root)]
    if layout == "video":
        with writing_video(root / "v.mp4", frame_rate_hz=10) as writer:
            for number in range(NUM_VIDEO_FRAMES):
                pixels = np.full((SIZE_WH[1], SIZE_WH[0], 3), 20 * number, np.uint8)
                writer.add(pixels, seconds=number / 10)
        return files, ["video", str(root / "v.mp4"), "--labels", str(files[0])]
    return files, [layout, str(images), str(files[0] if layout in LISTS else labels)]


def write_list(path: Path, layout: str) -> None:
    width, height = SIZE_WH
    size = {"width": width, "height": height}
    if layout == "coco":
        value: Any = {
            "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(len(BOXES))],
            "annotations": [
                {"id": 10 * i + j, "image_id": i, "category_id": 1, "iscrowd": 0,
                 "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for i, boxes in enumerate(BOXES)
                for j, (x0, y0, x1, y1) in enumerate(boxes)
            ],
            "categories": [{"id": 1, "name": "polyp"}],
        }  # fmt: skip
        write_json(path, value)
    elif layout == "label-studio":
        value = [
            {"data": {"image": f"/data/{i}.png"}, "annotations": [{"result": [
                {"type": "rectanglelabels", "original_width": width, "original_height": height,
                 "image_rotation": 0,
                 "value": {"x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0,
                           "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height,
                           "rectanglelabels": ["polyp"]}}
                for x0, y0, x1, y1 in boxes
            ]}]}
            for i, boxes in enumerate(BOXES)
        ]  # fmt: skip
        write_json(path, value)
    elif layout == "kvasir-seg":
        boxes_of = [
            [{"label": "polyp", **dict(zip(SIDES, box, strict=True))} for box in boxes]
            for boxes in BOXES
        ]
        write_json(path, {f"{i}": {**size, "bbox": boxes} for i, boxes in enumerate(boxes_of)})
    elif layout == "cvat":
        images = "".join(
            f'<image id="{i}" name="{i}.png" width="{width}" height="{height}">'
            f"{''.join(cvat_box(box, label='polyp') for box in boxes)}</image>"
            for i, boxes in enumerate(BOXES)
        )
        path.write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    else:
        tracks = "".join(
            f'<track id="{i}" label="polyp">'
            + "".join(cvat_box(box, frame=f"{i + n}", outside=f"{n // 2}") for n in range(3))
            + "</track>"
            for i, boxes in enumerate(BOXES)
            for box in boxes
        )
        meta = (
            f"<size>{NUM_VIDEO_FRAMES}</size><start_frame>0</start_frame><original_size>"
            f"<width>{width}</width><height>{height}</height></original_size>"
        )
        path.write_text(f"<annotations><meta><task>{meta}</task></meta>{tracks}</annotations>")


def cvat_box(box: list[int], **attributes: str) -> str:
    pairs = {**attributes, **dict(zip(CORNERS, box, strict=True))}
    text = " ".join(f'{key}="{value}"' for key, value in pairs.items())
    return f"<box {text}/>"


def yolo_text(index: int, boxes: list[list[int]]) -> str:
    width, height = SIZE_WH
    return "".join(
        f"0 {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
        f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
        for x0, y0, x1, y1 in boxes
    )


def voc_text(index: int, boxes: list[list[int]]) -> str:
    objects = "".join(
        "<object><name>polyp</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    size = f"<size><width>{SIZE_WH[0]}</width><height>{SIZE_WH[1]}</height></size>"
    return f"<annotation><filename>{index}.png</filename>{size}{objects}</annotation>"


def labelme_text(index: int, boxes: list[list[int]]) -> str:
    shapes = [
        {"label": "polyp", "shape_type": "rectangle", "points": [[x0, y0], [x1, y1]]}
        for x0, y0, x1, y1 in boxes
    ]
    size = {"imageWidth": SIZE_WH[0], "imageHeight": SIZE_WH[1]}
    return json.dumps({"imagePath": f"{index}.png", "imageData": None, **size, "shapes": shapes})


def ldpolypvideo_text(index: int, boxes: list[list[int]]) -> str:
    return "".join(f"{line}\n" for line in (len(boxes), *(" ".join(map(str, b)) for b in boxes)))


def stated_boxes(files: list[Path], layout: str) -> tuple[dict[str, list[Boxes]], int]:
    """Return the boxes of each image by its name, once for each time that the files list it.

    The number of boxes that belong to no image comes second.
    """
    found: dict[str, list[Boxes]] = {}
    if layout == "coco":
        return coco_boxes(json.loads(files[0].read_bytes()))
    if layout == "label-studio":
        for task in json.loads(files[0].read_bytes()):
            name = task["data"]["image"].rpartition("/")[2]
            if task.get("annotations"):
                (item,) = task["annotations"]
                boxes = [label_studio_box(region) for region in item["result"]]
                found.setdefault(name, []).append(boxes)
    elif layout == "kvasir-seg":
        for stem, item in json.loads(files[0].read_bytes()).items():
            check_size(item["width"], item["height"])
            found[f"{stem}.png"] = [[[box[side] for side in SIDES] for box in item["bbox"]]]
    elif layout == "cvat":
        for image in ElementTree.fromstring(files[0].read_bytes()).iter("image"):
            check_size(image.get("width"), image.get("height"))
            boxes = [cvat_corners(shape) for shape in image]
            found.setdefault(image.attrib["name"], []).append(boxes)
    elif layout == "video":
        found = {f"v.mp4 frame {n}": [[]] for n in range(NUM_VIDEO_FRAMES)}
        for track in ElementTree.fromstring(files[0].read_bytes()).iter("track"):
            for number, box in track_boxes(track):
                found[f"v.mp4 frame {number}"][0].append(box)
    else:
        for index in range(len(BOXES)):
            found[f"{index}.png"] = [file_boxes(files[index], layout, boxes=BOXES[index])]
    return found, 0


def check_size(width: Any, height: Any) -> None:
    for stated, own in zip((width, height), SIZE_WH, strict=True):
        assert float(stated or 0) in (0, own)


def coco_boxes(content: Any) -> tuple[dict[str, list[Boxes]], int]:
    boxes_of: dict[str, Boxes] = {str(item["id"]): [] for item in content["images"]}
    found: dict[str, list[Boxes]] = {}
    for item in content["images"]:
        check_size(item.get("width"), item.get("height"))
        found.setdefault(item["file_name"], []).append(boxes_of[str(item["id"])])
    alone = 0
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        box = NO_BOX if item.get("iscrowd") else [x, y, x + width, y + height]
        if str(item["image_id"]) in boxes_of:
            boxes_of[str(item["image_id"])].append(box)
        else:
            alone += 1
    return found, alone


def label_studio_box(region: Any) -> list[float]:
    value = region.get("value", {})
    is_turned = region.get("image_rotation") or value.get("rotation")
    if region["type"] != "rectanglelabels" or is_turned:
        return NO_BOX
    check_size(region["original_width"], region["original_height"])
    x, y, width, height = (value[key] for key in ("x", "y", "width", "height"))
    box = (x, y, x + width, y + height)
    return [corner * SIZE_WH[n % 2] / 100 for n, corner in enumerate(box)]


def cvat_corners(shape: ElementTree.Element) -> list[float]:
    return [float(shape.attrib[c]) for c in CORNERS] if shape.tag == "box" else NO_BOX


def track_boxes(track: ElementTree.Element) -> list[tuple[int, list[float]]]:
    """Return frame and box of a track, on the straight line between two keyframes."""
    keys = sorted(
        ((int(s.attrib["frame"]), s.get("outside") == "1", cvat_corners(s)) for s in track),
        key=lambda key: key[0],
    )
    found = [(n, box) for n, is_outside, box in keys if not is_outside]
    keys = [key for key in keys if not math.isnan(key[2][0])]
    for (n, is_outside, box), (end, is_end, goal) in pairwise(keys):
        last = box if is_end else goal
        for between in range(n + 1, end if not is_outside else 0):
            share = (between - n) / (end - n)
            line = [a + (b - a) * share for a, b in zip(box, last, strict=True)]
            found.append((between, line))
    return found


def file_boxes(path: Path, layout: str, *, boxes: list[list[int]]) -> Boxes:
    """Return the boxes in the file of one image."""
    if layout in MASKS:
        return [[float(value) for value in box] for box in boxes]
    if layout == "ldpolypvideo":
        count, *lines = (line for line in path.read_text().splitlines() if line.strip())
        assert int(count) == len(lines)
        return [[float(part) for part in line.split()] for line in lines]
    if layout == "labelme":
        content = json.loads(path.read_bytes())
        check_size(content["imageWidth"], content["imageHeight"])
        found = []
        for shape in content["shapes"]:
            xs, ys = zip(*shape["points"], strict=True)
            is_known = shape.get("shape_type", "polygon") in ("rectangle", "polygon")
            found.append([min(xs), min(ys), max(xs), max(ys)] if is_known else NO_BOX)
        return found
    if layout == "yolo":
        return [yolo_box(line) for line in path.read_text().splitlines() if line.strip()]
    root = ElementTree.fromstring(path.read_bytes())
    check_size(root.findtext("size/width"), root.findtext("size/height"))
    first = 1 if layout == "voc" else 0
    return [
        [
            float(item.findtext(f"bndbox/{side}") or "") - first * side.endswith("min")
            for side in SIDES
        ]
        for item in root.iter("object")
    ]


def yolo_box(line: str) -> list[float]:
    _, cx, cy, width, height = map(float, line.split())
    if max(cx, cy, width, height) > 1.01:
        return NO_BOX
    box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return [value * SIZE_WH[n % 2] for n, value in enumerate(box)]
