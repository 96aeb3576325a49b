"""Mutated label files: right boxes, a note, or one line and exit code 2, and each box is counted.

The expected boxes come from the readers in `label_datasets`, which know nothing of the importers.
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

import numpy as np
import pytest
from label_datasets import FORMATS, SIZE_WH, Boxes, stated_boxes, write_dataset

from haustra.captures.reader import read_run
from haustra.cli.main import main

NUM_MUTATIONS = 2000
NUMBER = re.compile(rb"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")

Capture = pytest.CaptureFixture[str]


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def all_objects(value: Any) -> list[dict[str, Any]]:
    """Return every JSON object inside a value."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    inner = [item for part in parts for item in all_objects(part)]
    return [value, *inner] if isinstance(value, dict) else inner


def drop_field(data: bytes, draw: random.Random) -> bytes:
    """Remove a key, an element, an attribute, a word of a line, or a few bytes of a mask."""
    if data.startswith((b"{", b"[")):
        content = json.loads(data)
        owner = draw.choice([item for item in all_objects(content) if item])
        del owner[draw.choice(list(owner))]
        return json.dumps(content).encode()
    if data.startswith(b"<"):
        root = ElementTree.fromstring(data)
        elements = [(p, c) for p in root.iter() for c in p if c.tag != "object"]
        attributes = [(e, name) for e in root.iter() for name in e.attrib]
        if attributes and draw.random() < 0.7:
            element, name = draw.choice(attributes)
            del element.attrib[name]
        else:
            parent, child = draw.choice(elements)
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


def keep(data: bytes, _draw: random.Random) -> bytes:
    return data


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncate,
    "flipped": flip_bytes,
    "dropped": drop_field,
    "swapped": swap_numbers,
}


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
    files, arguments = write_dataset(folder, layout)
    file = draw.choice([p for p in files if len(NUMBER.findall(p.read_bytes())) > 1] or files)
    data = {"unchanged": keep, **MUTATIONS}[kind](file.read_bytes(), draw)
    file.write_bytes(data)
    about = f"{layout} {kind} {seed}: {file.name} {data[:2000]!r}"
    output = ["--output-root", str(folder / "captures"), "--run-id", "x"]
    stopped = None
    try:
        main(["import", *arguments, *output, "--json"])
    except SystemExit as stop:
        stopped = stop.code
    shown = capsys.readouterr()
    if stopped is not None:
        assert kind != "unchanged", about + shown.err
        assert (stopped, shown.out) == (2, ""), about
        assert re.fullmatch(r"haustra: [^\n]+\n", shown.err), about
        assert not list((folder / "captures").glob("*")), about
        return
    assert shown.err == "", about
    result: Any = json.loads(shown.out)
    if isinstance(result, list):
        (result,) = result
    stated, alone = stated_boxes(files, layout)
    num_stated = sum(len(boxes) for listed in stated.values() for boxes in listed)
    assert result["boxes"] + result["rejected_boxes"] == num_stated, about
    note = f"{alone} annotation(s) have an image id that is not listed"
    assert (note in result["notes"]) == bool(alone), about
    run = read_run(result["run"])
    if layout == "real-colon":  # the rate of the table, or a note that it is not known
        is_noted = any(note.startswith("not known: frame rate") for note in result["notes"])
        assert (run.manifest.frame_rate_hz is None) == is_noted, about
        rate = run.manifest.frame_rate_hz or 25
        assert f",{rate:g}\n" in (folder / "video_info.csv").read_text() or is_noted, about
    for label in (frame.label for frame in run.frames):
        assert label is not None, about
        boxes = stated[label.source_name or ""].pop(0)
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
    assert not any(boxes for listed in stated.values() for boxes in listed), about


def judge_many(layout: str, kind: str, *, seeds: range, folder: Path, capsys: Capture) -> None:
    for seed in seeds:
        judge(layout, kind, seed=seed, folder=folder / str(seed), capsys=capsys)
        shutil.rmtree(folder / str(seed))


every_mutation = pytest.mark.parametrize(
    ("layout", "kind"),
    [(layout, kind) for layout in FORMATS for kind in MUTATIONS],
)


@pytest.mark.parametrize("layout", FORMATS)
def test_unchanged_label_files_are_imported(tmp_path: Path, capsys: Capture, layout: str) -> None:
    judge(layout, "unchanged", seed=0, folder=tmp_path, capsys=capsys)


@every_mutation
def test_a_few_mutated_label_files_never_give_wrong_boxes_in_silence(
    tmp_path: Path, capsys: Capture, layout: str, kind: str
) -> None:
    judge_many(layout, kind, seeds=range(1), folder=tmp_path, capsys=capsys)


@pytest.mark.slow
@pytest.mark.stress
@every_mutation
def test_mutated_label_files_never_give_wrong_boxes_in_silence(
    tmp_path: Path, capsys: Capture, layout: str, kind: str
) -> None:
    seeds = range(math.ceil(NUM_MUTATIONS / len(FORMATS) / len(MUTATIONS)))
    judge_many(layout, kind, seeds=seeds, folder=tmp_path, capsys=capsys)
