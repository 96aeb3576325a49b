"""Mutated label files: right boxes, a note, or one line and exit code 2, and each box is counted.

The expected boxes come from readers of a few lines that know nothing of the importers.
"""

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from builders import write_image, write_json
from haustra.captures.reader import read_run
from haustra.cli.main import main

SIZE_WH = (64, 48)
BOXES: tuple[list[list[int]], ...] = (
    [[4, 6, 20, 30], [30, 8, 60, 40]],
    [[10, 10, 26, 34]],
    [],
    [[2, 3, 12, 15]],
)
NUM_MUTATIONS = 2000
NUMBER = re.compile(rb"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")

Boxes = list[list[float]]
Capture = pytest.CaptureFixture[str]


def write_dataset(root: Path, layout: str) -> list[Path]:
    """Write four images with labels; return the label files."""
    for index in range(len(BOXES)):
        write_image(root / f"images/{index}.png", seed=index, size_wh=SIZE_WH)
    labels = root / "labels"
    labels.mkdir()
    if layout == "coco":
        sizes = {"width": SIZE_WH[0], "height": SIZE_WH[1]}
        value = {
            "images": [{"id": i, "file_name": f"{i}.png", **sizes} for i in range(len(BOXES))],
            "annotations": [
                {"id": 10 * i + j, "image_id": i, "category_id": 1, "iscrowd": 0,
                 "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for i, boxes in enumerate(BOXES)
                for j, (x0, y0, x1, y1) in enumerate(boxes)
            ],
            "categories": [{"id": 1, "name": "polyp"}],
        }  # fmt: skip
        write_json(labels / "a.json", value)
    for index, boxes in enumerate(BOXES):
        if layout == "yolo":
            width, height = SIZE_WH
            lines = [
                f"0 {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
                f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
                for x0, y0, x1, y1 in boxes
            ]
            (labels / f"{index}.txt").write_text("".join(lines))
        elif layout == "voc":
            objects = "".join(
                f"<object><name>polyp</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
                f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for x0, y0, x1, y1 in boxes
            )
            (labels / f"{index}.xml").write_text(
                f"<annotation><filename>{index}.png</filename><size><width>{SIZE_WH[0]}</width>"
                f"<height>{SIZE_WH[1]}</height></size>{objects}</annotation>"
            )
        elif layout == "masks":
            mask = np.zeros(SIZE_WH[::-1], np.uint8)
            for x0, y0, x1, y1 in boxes:
                mask[y0:y1, x0:x1] = 255
            cv2.imwrite(str(labels / f"{index}.png"), mask)
    return sorted(labels.iterdir())


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def drop_field(data: bytes, draw: random.Random) -> bytes:
    """Remove one key of JSON, one element of XML, one word of a line, or a few bytes of a mask."""
    if data.startswith(b"{"):
        content = json.loads(data)
        items = [content, *(item for part in content.values() for item in part)]
        owner = draw.choice([item for item in items if item])
        del owner[draw.choice(list(owner))]
        return json.dumps(content).encode()
    if data.startswith(b"<"):
        root = ElementTree.fromstring(data)
        parent, child = draw.choice([(p, c) for p in root.iter() for c in p if c.tag != "object"])
        parent.remove(child)
        return ElementTree.tostring(root)
    if data.startswith(b"\x89PNG"):
        start = draw.randrange(len(data))
        return data[:start] + data[start + draw.randint(1, 8) :]
    words = data.split()
    return data.replace(draw.choice(words), b"", 1)


def swap_numbers(data: bytes, draw: random.Random) -> bytes:
    """Let two numbers change places; in a mask, two bytes."""
    places = [match.span() for match in NUMBER.finditer(data)]
    if data.startswith(b"\x89PNG"):
        places = [(index, index + 1) for index in range(len(data))]
    (a, b), (c, d) = sorted(draw.sample(places, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncate,
    "flipped": flip_bytes,
    "dropped": drop_field,
    "swapped": swap_numbers,
}


def expected_boxes(labels: Path, layout: str) -> tuple[list[Boxes], int]:
    """Return the boxes that the files state, and the number that belong to no image."""
    found: list[Boxes] = [[] for _ in BOXES]
    if layout == "coco":
        content = json.loads((labels / "a.json").read_bytes())
        ids = [str(item["id"]) for item in content["images"]]
        assert [item["file_name"] for item in content["images"]] == [f"{i}.png" for i in range(4)]
        for item in content["images"]:
            assert item.get("width") in (SIZE_WH[0], None, 0)
            assert item.get("height") in (SIZE_WH[1], None, 0)
        alone = 0
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            if str(item["image_id"]) not in ids:
                alone += 1
            elif item.get("iscrowd"):
                found[ids.index(str(item["image_id"]))].append([math.nan] * 4)
            else:
                found[ids.index(str(item["image_id"]))].append([x, y, x + width, y + height])
        return found, alone
    for index in range(len(BOXES)):
        if layout == "masks":
            found[index] = [[float(value) for value in box] for box in BOXES[index]]
        elif layout == "yolo":
            for line in (labels / f"{index}.txt").read_text().splitlines():
                if line.strip():
                    _, cx, cy, width, height = map(float, line.split())
                    box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
                    is_share = max(cx, cy, width, height) <= 1.01
                    found[index].append(
                        [value * SIZE_WH[i % 2] for i, value in enumerate(box)]
                        if is_share
                        else [math.nan] * 4
                    )
        else:
            root = ElementTree.fromstring((labels / f"{index}.xml").read_bytes())
            size = [root.findtext(f"size/{side}") or "0" for side in ("width", "height")]
            assert all(float(a) in (0, b) for a, b in zip(size, SIZE_WH, strict=True))
            for item in root.iter("object"):
                x0, y0, x1, y1 = (
                    float(item.findtext(f"bndbox/{side}") or "")
                    for side in ("xmin", "ymin", "xmax", "ymax")
                )
                found[index].append([x0 - 1, y0 - 1, x1, y1])
    return found, 0


def usable(boxes: Boxes) -> Boxes:
    width, height = SIZE_WH
    return [
        [max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)]
        for x0, y0, x1, y1 in boxes
        if x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0
    ]


def judge(layout: str, kind: str, *, seed: int, folder: Path, capsys: Capture) -> None:
    """Import a dataset with one mutated label file and check what comes of it."""
    draw = random.Random(f"{layout} {kind} {seed}")
    files = write_dataset(folder, layout)
    file = draw.choice([path for path in files if NUMBER.search(path.read_bytes())] or files)
    data = MUTATIONS[kind](file.read_bytes(), draw)
    file.write_bytes(data)
    about = f"{layout} {kind} {seed}: {data[:2000]!r}"
    source = file if layout == "coco" else folder / "labels"
    output = ["--output-root", str(folder / "captures"), "--run-id", "x"]
    stopped = None
    try:
        main(["import", layout, str(folder / "images"), str(source), *output, "--json"])
    except SystemExit as stop:
        stopped = stop.code
    shown = capsys.readouterr()
    if stopped is not None:
        assert (stopped, shown.out) == (2, ""), about
        assert re.fullmatch(r"haustra: [^\n]+\n", shown.err), about
        assert not list((folder / "captures").glob("*")), about
        return
    assert shown.err == "", about
    result: Any = json.loads(shown.out)
    stated, alone = expected_boxes(folder / "labels", layout)
    assert result["boxes"] + result["rejected_boxes"] == sum(map(len, stated)), about
    note = f"{alone} annotation(s) have an image id that is not listed"
    assert (note in result["notes"]) == bool(alone), about
    labels = [frame.label for frame in read_run(folder / "captures/run_x").frames]
    for label, boxes in zip(labels, stated, strict=True):
        assert label is not None, about
        read = [polyp.bbox_px for polyp in label.labels]
        expected = usable(boxes)
        assert len(read) == len(expected), about
        np.testing.assert_allclose(
            np.reshape(sorted(read), (-1, 4)),
            np.reshape(sorted(expected), (-1, 4)),
            atol=1e-6,
            err_msg=about,
        )
        assert len(label.rejected) == len(boxes) - len(expected), about


def judge_many(layout: str, kind: str, *, seeds: range, folder: Path, capsys: Capture) -> None:
    for seed in seeds:
        judge(layout, kind, seed=seed, folder=folder / str(seed), capsys=capsys)
        shutil.rmtree(folder / str(seed))


every_mutation = pytest.mark.parametrize(
    ("layout", "kind"),
    [(layout, kind) for layout in ("coco", "yolo", "voc", "masks") for kind in MUTATIONS],
)


@every_mutation
def test_a_few_mutated_label_files_never_give_wrong_boxes_in_silence(
    tmp_path: Path, capsys: Capture, layout: str, kind: str
) -> None:
    judge_many(layout, kind, seeds=range(3), folder=tmp_path, capsys=capsys)


@pytest.mark.slow
@pytest.mark.stress
@every_mutation
def test_mutated_label_files_never_give_wrong_boxes_in_silence(
    tmp_path: Path, capsys: Capture, layout: str, kind: str
) -> None:
    seeds = range(NUM_MUTATIONS // 4 // len(MUTATIONS))
    judge_many(layout, kind, seeds=seeds, folder=tmp_path, capsys=capsys)
