import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import (
    encoded_image,
    label_json,
    noise_image,
    write_frame,
    write_image,
    write_json,
    write_run,
)
from haustra.captures.reader import Frame, read_run
from haustra.captures.validation import (
    CheckedFrame,
    FrameProblem,
    ValidationSummary,
    check_frame,
    check_frames,
)
from haustra.core.digests import digest_bytes

BAD_BOXES: list[tuple[list[float], str]] = [
    ([math.nan, 0, 5, 5], "box [nan, 0, 5, 5] has a value that is not finite"),
    ([9, 0, 5, 5], "box [9, 0, 5, 5] is inverted: x1 < x0 or y1 < y0"),
    ([5, 0, 5, 5], "box [5, 0, 5, 5] is empty"),
    ([40, 0, 50, 5], "box [40, 0, 50, 5] lies outside the 32x24 image"),
]


def check_only_frame(run: Path) -> CheckedFrame | FrameProblem:
    (frame,) = read_run(run).frames
    return check_frame(frame)


def usable_frame(run: Path) -> CheckedFrame:
    checked = check_only_frame(run)
    assert isinstance(checked, CheckedFrame), checked.reason
    return checked


def test_a_usable_frame_comes_with_its_pixels_boxes_and_digest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a")
    labels = [{"bbox_px": [1, 2, 3, 4], "lesion_id": "p1"}, {"bbox_norm": [0.5, 0.5, 1, 1]}]
    write_frame(run, seed=5, labels=labels)
    checked = usable_frame(run)
    # The builder hands its noise to OpenCV, which takes it as blue, green, red.
    assert np.array_equal(checked.image_rgb, noise_image(5)[:, :, ::-1])
    assert checked.image_digest == digest_bytes(encoded_image(5))
    assert checked.boxes_px.tolist() == [[1, 2, 3, 4], [16, 12, 32, 24]]
    assert checked.lesion_ids == ("p1", None)
    assert (checked.size_wh, checked.num_clipped, checked.box_problems) == ((32, 24), 0, ())


@pytest.mark.parametrize(("box_px", "reason"), BAD_BOXES)
def test_a_bad_box_rejects_only_itself_and_is_named(
    tmp_path: Path, box_px: list[float], reason: str
) -> None:
    run = write_run(tmp_path / "run_a", [[1, 2, 3, 4], box_px, [5, 6, 7, 8]])
    checked = usable_frame(run)
    assert checked.boxes_px.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(checked.lesion_ids) == 2
    assert checked.box_problems == (f"run_a/frame_00000: label 1: {reason}",)


def test_clipped_boxes_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [[-4, 2, 3, 4], [1, 1, 33, 25], [0, 0, 32, 24]])
    checked = usable_frame(run)
    assert checked.boxes_px.tolist() == [[0, 2, 3, 4], [1, 1, 32, 24], [0, 0, 32, 24]]
    assert checked.num_clipped == 2


def test_a_frame_without_boxes_is_usable(tmp_path: Path) -> None:
    assert usable_frame(write_run(tmp_path / "run_a", [])).boxes_px.shape == (0, 4)


def spoil(run: Path, index: int, kind: str) -> str:
    """Make one frame of a run unusable; return what should be said about it."""
    name = f"frame_{index:05d}"
    image, label = run / f"images/{name}.png", run / f"labels/{name}.json"
    if kind == "missing":
        image.unlink()
        return f"{run.name}/images/{name}.png does not exist"
    if kind == "no image":
        image.write_text("text")
        return f"{run.name}/images/{name}.png is not an image (PNG, JPEG, BMP, TIFF or WebP)"
    if kind == "cut":
        image.write_bytes(image.read_bytes()[:-20])
        return f"{run.name}/images/{name}.png is cut short: its end marker is missing"
    if kind == "folder":
        image.unlink()
        image.mkdir()
        return f"{run.name}/images/{name}.png cannot be read: Is a directory"
    if kind == "not json":
        label.write_text("")
        return (
            f"{run.name}/labels/{name}.json is not JSON (line 1: Expecting value); "
            "expected a frame label"
        )
    assert kind == "without_image"
    changes: dict[str, Any] = {"image": f"images/{name}.png", "image_present": False}
    write_json(label, label_json(**changes))
    return f"{run.name}/{name}: the label says that no image was taken"


PROBLEM_KINDS = {
    "missing": "missing",
    "no image": "invalid",
    "cut": "invalid",
    "folder": "invalid",
    "not json": "invalid",
    "without_image": "without_image",
}


@pytest.mark.parametrize(("spoiling", "kind"), PROBLEM_KINDS.items())
def test_a_frame_that_cannot_be_used_says_why(tmp_path: Path, spoiling: str, kind: str) -> None:
    run = write_run(tmp_path / "run_a", [[1, 2, 3, 4]])
    reason = spoil(run, 0, spoiling)
    problem = check_only_frame(run)
    assert isinstance(problem, FrameProblem)
    assert (problem.kind, problem.reason) == (kind, reason)


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_is_counted_exactly_once(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run = write_run(tmp_path / "run_a")
    kinds = ("usable", "invalid", "missing", "without_image", "empty_left_out", "empty")
    counts = dict.fromkeys(kinds, 0)
    boxes = clipped = rejected = 0
    problems: list[str] = []
    quarantined: list[str] = []
    num_frames = rng.randint(5, 15)
    for index in range(num_frames):
        frame_boxes: list[list[float]] = []
        frame_problems = []
        for number in range(rng.randint(0, 3)):
            kind = rng.choice(["inside", "leaving", "bad"])
            bad_box, reason = rng.choice(BAD_BOXES)
            boxes_of_kind: dict[str, list[float]] = {
                "inside": [1, 2, 3, 4],
                "leaving": [1, 2, 99, 4],
                "bad": bad_box,
            }
            frame_boxes.append(boxes_of_kind[kind])
            if kind == "bad":
                frame_problems.append(f"run_a/frame_{index:05d}: label {number}: {reason}")
        write_frame(run, index, boxes_px=frame_boxes)
        spoiling = rng.choice([*PROBLEM_KINDS, *["fine"] * 6])
        if spoiling != "fine":
            reason = spoil(run, index, spoiling)
            counts[PROBLEM_KINDS[spoiling]] += 1
            quarantined += [reason] if spoiling != "without_image" else []
            continue
        num_good = len(frame_boxes) - len(frame_problems)
        counts["usable"] += 1
        counts["empty"] += num_good == 0
        boxes += num_good
        clipped += sum(box == [1, 2, 99, 4] for box in frame_boxes)
        rejected += len(frame_problems)
        problems += frame_problems
    summary = ValidationSummary()
    for checked in check_frames(read_run(run).frames):
        summary.add(checked)
    assert summary.frames == num_frames
    assert summary.counts() == {
        "frames": num_frames,
        **counts,
        "boxes": boxes,
        "clipped_boxes": clipped,
        "rejected_boxes": rejected,
        "unlabelled_images": 0,
    }
    assert summary.problems == problems
    assert [problem.reason for problem in summary.quarantined] == quarantined


def test_images_without_a_label_are_counted_and_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run_a", [])
    write_image(run / "images/extra.png")
    summary = ValidationSummary()
    summary.add_unlabeled(read_run(run))
    assert (summary.frames, summary.unlabelled_images) == (0, 1)
    assert summary.problems == ["run_a/images/extra.png has no label file"]


def test_summaries_add_up() -> None:
    total = ValidationSummary(usable=1, empty_left_out=2, boxes=2, problems=["a"])
    total.merge(ValidationSummary(usable=3, invalid=1, rejected_boxes=4, problems=["b"]))
    assert total == ValidationSummary(
        usable=4, invalid=1, empty_left_out=2, boxes=2, rejected_boxes=4, problems=["a", "b"]
    )
    assert total.frames == 7


@pytest.fixture
def frames_of_uneven_work(tmp_path: Path) -> tuple[Frame, ...]:
    run = write_run(tmp_path / "run_a")
    for index in range(24):
        size = 700 if index % 5 == 0 else 16
        write_frame(run, index, seed=index, size_wh=(size, size))
    spoil(run, 7, "missing")
    return read_run(run).frames


@pytest.mark.parametrize("threads", [1, 4])
def test_frames_are_checked_in_their_order(
    frames_of_uneven_work: tuple[Frame, ...], threads: int
) -> None:
    checked = list(check_frames(frames_of_uneven_work, threads=threads))
    assert [item.frame for item in checked] == list(frames_of_uneven_work)
    assert [index for index, item in enumerate(checked) if isinstance(item, FrameProblem)] == [7]


def test_only_a_few_frames_are_decoded_ahead(frames_of_uneven_work: tuple[Frame, ...]) -> None:
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames_of_uneven_work:
            taken += 1
            yield frame

    checking = check_frames(counted(), threads=1)
    next(checking)
    assert taken == 5
