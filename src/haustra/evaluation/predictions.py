"""Stored predictions: the boxes of a detector on named frames, to measure them later or elsewhere.

The format is a JSON object with boxes by frame. A list of COCO results, as other frameworks write
it, is read as well; its `image_id` is the id of the frame, `run_id/frame`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import is_four_numbers
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.files import read_json, write_json_atomic
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.frames import EvalFrame

FORMAT_NAME = "haustra-predictions"
FORMAT_VERSION = 1

Scored = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Boxes `x0,y0,x1,y1` [N,4] in pixels of the source image, and their scores [N] in 0..1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPredictions:
    """Boxes of a detector by frame."""

    path: Path
    caption: str  # name of the detector
    operating_point: OperatingPoint
    boxes_by_frame: dict[str, Scored]
    lists_every_frame: bool
    """False for COCO results, where a frame without an entry has no detections."""

    def find(self, frame: EvalFrame, *, iou: float) -> Detections:
        """Return the boxes that were found on a frame, without overlaps above `iou`."""
        scored = self.boxes_by_frame.get(frame.sample_id)
        if scored is None and self.lists_every_frame:
            raise HaustraError(
                f"{self.path} has no predictions of {frame.sample_id!r}; expected those of the "
                "frames that are measured; make them with `haustra eval --predictions-out`"
            )
        boxes, scores = scored or (np.zeros((0, 4)), np.zeros(0))
        size_wh = frame.truth.image_size_wh
        order = np.argsort(-scores, kind="stable")
        boxes = np.clip(boxes[order], 0, np.tile(size_wh, 2))
        found = Detections(boxes_px=boxes, scores=scores[order], image_size_wh=size_wh)
        return found.without_overlaps(iou)

    def check_frames(self, sample_ids: Sequence[str]) -> None:
        """Check that every prediction belongs to a frame that is measured."""
        unknown = sorted(set(self.boxes_by_frame) - set(sample_ids))
        if unknown and not self.lists_every_frame:
            raise HaustraError(
                f"{self.path}: image_id {unknown[0]!r} is not among the {len(sample_ids)} frames "
                f"that are measured; expected ids such as {sample_ids[0]!r}"
            )


def write_predictions(
    path: Path,
    *,
    detector: str,
    operating_point: OperatingPoint,
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
) -> None:
    """Write the boxes of a detector on each frame, as a whole file or not at all."""
    value = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "detector": detector,
        "operating_point": operating_point.to_json(),
        "images": [
            {
                "sample_id": frame.sample_id,
                "image_size_wh": list(found.image_size_wh),
                "boxes_px": found.boxes_px.tolist(),
                "scores": found.scores.tolist(),
            }
            for frame, found in zip(frames, predictions, strict=True)
        ],
    }
    write_json_atomic(path, value=value)


def check_scored(boxes: Any, scores: Any, *, place: str) -> Scored:
    """Return the boxes and scores of a file's entry, which messages call `place`, as arrays."""
    for box in boxes:
        is_box = is_four_numbers(box) and np.isfinite(box).all()
        if not is_box or box[2] < box[0] or box[3] < box[1]:
            raise HaustraError(
                f"{place}: box {box!r}: expected x0,y0,x1,y1 with x0 <= x1 and y0 <= y1"
            )
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise HaustraError(f"{place}: score {score!r}: expected a number from 0 to 1")
    if len(boxes) != len(scores):
        raise HaustraError(f"{place}: {len(boxes)} boxes and {len(scores)} scores")
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)


def _read_coco(path: Path, entries: list[Any]) -> dict[str, Scored]:
    by_frame: dict[str, list[Scored]] = defaultdict(list)
    for number, entry in enumerate(entries):
        place = f"{path}: entry {number}"
        try:
            name, box, score = entry["image_id"], entry["bbox"], entry["score"]
        except (KeyError, TypeError):
            raise HaustraError(
                f"{place}: expected a COCO result with image_id, bbox and score"
            ) from None
        if not isinstance(name, str):
            raise HaustraError(f"{place}: image_id {name!r}: expected a frame's id, run_id/frame")
        if is_four_numbers(box):
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        by_frame[name].append(check_scored([box], [score], place=place))
    return {
        name: (np.concatenate([box for box, _ in found]), np.concatenate([s for _, s in found]))
        for name, found in by_frame.items()
    }


def read_predictions(path: Path) -> StoredPredictions:
    """Read stored predictions of haustra, or a list of COCO results.

    Raises:
        HaustraError: The file is missing or of another format, or an entry is wrong.
    """
    value = read_json(path, what="stored predictions")
    if isinstance(value, list):
        return StoredPredictions(
            path=path,
            caption=path.stem,
            operating_point=OperatingPoint(iou=1.0),
            boxes_by_frame=_read_coco(path, value),
            lists_every_frame=False,
        )
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise HaustraError(
            f"{path} holds no predictions; expected a file of `haustra eval --predictions-out` or "
            "a list of COCO results"
        )
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{path} has format version {value.get('format_version')!r}; this haustra reads "
            f"version {FORMAT_VERSION}"
        )
    try:
        return StoredPredictions(
            path=path,
            caption=value["detector"],
            operating_point=OperatingPoint(**value["operating_point"]),
            boxes_by_frame={
                entry["sample_id"]: check_scored(
                    entry["boxes_px"], entry["scores"], place=f"{path}: image {number}"
                )
                for number, entry in enumerate(value["images"])
            },
            lists_every_frame=True,
        )
    except (KeyError, TypeError) as error:
        raise HaustraError(f"{path} is damaged: {error!r}") from None
