"""Labeled and detected boxes of small images, for tests of the metrics."""

import numpy as np

from haustra.core.detections import Detections, detections_from_labels
from haustra.core.letterbox import plan_letterbox
from haustra.evaluation.frames import EvalFrame, Lesion

SIZE_WH = (200, 150)


def truth_of(*boxes: tuple[float, float, float, float]) -> Detections:
    return detections_from_labels(np.array(boxes).reshape(-1, 4), image_size_wh=SIZE_WH)


def found(*scored: tuple[float, tuple[float, float, float, float]]) -> Detections:
    ordered = sorted(scored, key=lambda pair: -pair[0])
    return Detections(
        boxes_px=np.array([box for _, box in ordered], dtype=np.float64).reshape(-1, 4),
        scores=np.array([score for score, _ in ordered], dtype=np.float64),
        image_size_wh=SIZE_WH,
    )


def random_scene(seed: int) -> tuple[list[Detections], list[Detections]]:
    """Random truths, and detections that are moved copies, doubles and inventions."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(int(rng.integers(1, 30))):
        low = rng.uniform(0, 100, (int(rng.integers(0, 5)), 2))
        boxes = np.hstack([low, low + rng.uniform(3, 49, low.shape)])
        copies = boxes.repeat(2, axis=0)[rng.random(2 * len(boxes)) < 0.7]
        moved = copies + rng.normal(0, 4, copies.shape)
        low = rng.uniform(0, 100, (int(rng.integers(0, 3)), 2))
        made_up = np.hstack([low, low + rng.uniform(3, 49, low.shape)])
        guesses = np.vstack([moved, made_up])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2])
        scores = -np.sort(-rng.random(len(guesses)).round(2))
        truths.append(detections_from_labels(boxes, image_size_wh=SIZE_WH))
        predictions.append(Detections(boxes_px=guesses, scores=scores, image_size_wh=SIZE_WH))
    return truths, predictions


def frame(
    number: int,
    truth: Detections,
    *,
    lesions: tuple[str | None, ...] | None = None,
    run_id: str = "run",
    seconds: float | None = None,
) -> EvalFrame:
    """Return a frame of a run with these labels; each names the lesion `a` by default."""
    names = ("a",) * len(truth) if lesions is None else lesions
    return EvalFrame(
        sample_id=f"{run_id}/frame_{number:05}",
        group_id=run_id,
        run_id=run_id,
        number=number,
        seconds=seconds,
        truth=truth,
        lesions=tuple(None if n is None else Lesion(lesion_id=f"{run_id}/{n}") for n in names),
        letterbox=plan_letterbox(SIZE_WH, target_size_wh=(64, 64), mode="letterbox"),
    )
