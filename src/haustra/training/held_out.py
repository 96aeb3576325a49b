"""The operating point at the end of a training, fitted on held-out images without a polyp.

They are the clean frames of the validation split, where it has enough. Otherwise windows of its
images that no labeled box comes near join them, and clean frames of simulated colons that no
training sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.fitting import best_f1_threshold, threshold_at_rate
from haustra.evaluation.frame_tier import frame_scores
from haustra.inference.detector import Detector
from haustra.training.augment import Image
from haustra.training.negatives import clean_frames, draw_window, enlarge, truncated_samples
from haustra.warehouse.dataset import Split

MOST_WINDOWS, MOST_WINDOWS_PER_IMAGE = 600, 4
BATCH_SIZE = 32


@dataclass
class _HeldOut:
    """Images without a polyp, counted while they are read."""

    split: Split
    clean: int = 0  # frames of the split that show no polyp
    windows: int = 0
    images_with_windows: int = 0
    simulated: int = 0

    def images(self) -> Iterator[Image]:
        split, num_images = self.split, len(self.split)
        num_labels = split.table.column("boxes_before").to_numpy()
        per_image = min(MOST_WINDOWS_PER_IMAGE, max(1, MOST_WINDOWS // num_images))
        most = MOST_WINDOWS // per_image
        spread = np.linspace(0, num_images - 1, min(num_images, most)).round().astype(int)
        chosen = set(spread.tolist()) - truncated_samples(split)
        for index in range(num_images):
            if not num_labels[index]:
                self.clean += 1
                yield split.view(index)[0]
            elif index in chosen:
                image, boxes = split.view(index)
                rng = np.random.default_rng(index)
                drawn = [draw_window(boxes.astype(np.float64), rng) for _ in range(per_image)]
                found = [window for window in drawn if window is not None]
                self.windows += len(found)
                self.images_with_windows += bool(found)
                yield from (enlarge(image, window) for window in found)
        for image in clean_frames("held_out", size_wh=split.manifest.target_size_wh):
            self.simulated += 1
            yield image

    def __str__(self) -> str:
        images = f"{self.images_with_windows} image" + "s" * (self.images_with_windows != 1)
        counts = (
            (self.clean, "clean frame", ""),
            (self.windows, "polyp-free window", f" of {images}"),
            (self.simulated, "simulated frame", ""),
        )
        return ", ".join(
            f"{count} {name}{'s' * (count != 1)}{of}" for count, name, of in counts if count
        )


def _top_scores(detector: Detector, images: Iterator[Image]) -> list[float]:
    """Return each image's highest score."""
    found: list[float] = []
    while batch := list(islice(images, BATCH_SIZE)):
        _, scores = detector.predict_slots(np.stack(batch))
        found += scores.max(axis=1).astype(float).tolist()
    return found


def fit_after_training(
    detector: Detector, evaluation: Evaluation, *, split: Split, target_fpr: float
) -> OperatingPoint:
    """Fit the threshold of a detector that has just been trained.

    Args:
        evaluation: The detector's evaluation on the validation split.
        split: The validation split.
        target_fpr: Largest share of the images without a polyp that may be flagged, 0..1.

    Returns:
        The point with its record. Without enough images for the rate the threshold has the best F1
        of boxes, or is the default where no box is found.
    """
    positive, negative = frame_scores(evaluation.truths, evaluation.predictions)
    fitted_on = f"{split.name} of v{split.manifest.version}"
    if len(negative) * target_fpr < 1:
        held_out = _HeldOut(split)
        negative = _top_scores(detector, held_out.images())
        fitted_on = f"{held_out} ({fitted_on})"
    if found := threshold_at_rate(positive, negative, target_fpr=target_fpr):
        threshold, record = found
        return OperatingPoint(objectness=threshold, fitted={**record, "fitted_on": fitted_on})
    try:
        threshold, f1 = best_f1_threshold(evaluation.truths, evaluation.predictions)
    except HaustraError:
        return OperatingPoint()
    needed = int(np.ceil(1 / target_fpr))
    record = {"rule": "f1", "f1": f1, "num_clean_frames": len(negative), "needed": needed}
    return OperatingPoint(objectness=threshold, fitted={**record, "fitted_on": split.name})


def describe_fit(point: OperatingPoint, *, has_validation: bool) -> str:
    """Return a line on the point of `fit_after_training`: what it was fitted on, or why not."""
    text, record = f"operating point: threshold {point.objectness:.3g}", point.fitted
    if record is None:
        why = "no detection overlaps a labeled box of the validation split; train longer"
        if not has_validation:
            why = (
                "the warehouse has no validation sample; run `haustra eval --fit` on frames with "
                "polyps and without"
            )
        return f"{text} is the default, not fitted: {why}"
    if record["rule"] == "f1":
        return (
            f"{text} has the best F1 of boxes: the {record['num_clean_frames']} held-out images "
            f"without a polyp are fewer than the {record['needed']} that the rate needs; add "
            "frames without a polyp, or raise it (`haustra train --fit-fpr`)"
        )
    text += f" flags {record['achieved_fpr']:.1%} of {record['fitted_on']}"
    if record["num_lesion_frames"]:
        sensitivity = f"{record['achieved_sensitivity']:.1%}"
        text += f", and {sensitivity} of {record['num_lesion_frames']} images with a polyp"
    return text
