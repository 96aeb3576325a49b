"""The settings of matching and loss. Does not import torch."""

from dataclasses import dataclass

from haustra.core.checked import CheckedSettings, CountFromOne, NonNegative


@dataclass(frozen=True, kw_only=True)
class QualityPowers(CheckedSettings):
    """Exponents of a pair's quality, `score^score * IoU^iou` (TOOD, Feng et al. 2021)."""

    score: NonNegative
    """Exponent of the score, which is the cell's objectness after the sigmoid."""
    iou: NonNegative
    """Exponent of the IoU of the cell's box and the labeled box."""


@dataclass(frozen=True, kw_only=True)
class MatchingSettings(CheckedSettings):
    """How cells are matched with labeled boxes."""

    num_top_cells: CountFromOne = 10
    """Cells that learn from each box in the dense heads. TOOD uses 13, the YOLO family 10."""
    least_width_cells: NonNegative = 1.5
    """Width and height, in cells, to which a smaller box is enlarged when its candidate cells are
    chosen. A box thinner than a cell may otherwise contain no center of a cell."""
    one_to_many: QualityPowers = QualityPowers(score=0.5, iou=4.0)
    """Quality in the dense heads' matching: the place decides, and the score breaks ties."""
    one_to_one: QualityPowers = QualityPowers(score=1.0, iou=2.0)
    """Quality in the exclusion's matching. The score has a say, so that the cell that represents a
    polyp keeps representing it."""


@dataclass(frozen=True, kw_only=True)
class LookSettings(CheckedSettings):
    """Which boxes the refiner looks at in training, and how much its terms count."""

    num_own: CountFromOne = 4
    """Best candidates of the detector itself that it looks at in each image."""
    num_jittered: CountFromOne = 8
    """Labeled boxes with moved sides that it looks at in each image."""
    largest_jitter: NonNegative = 0.4
    """Largest move of a side, as a share of the box's width or height."""
    least_iou: NonNegative = 0.35
    """IoU with a labeled box from which the refiner learns where that one's sides are."""
    sides_weight: NonNegative = 2.0
    """Weight of the moves of the sides."""
    iou_weight: NonNegative = 1.0
    """Weight of the estimated IoU."""


@dataclass(frozen=True, kw_only=True)
class LossSettings(CheckedSettings):
    """How much the terms of the loss count. The IoU term's weight is `TrainConfig.iou_weight`."""

    l1_weight: NonNegative = 4.5
    """Weight of the L1 term of the boxes, which are normalized to the image. It gave a higher
    AP in 27 minutes than the former 7.5 (dev/lab_log.md)."""
    background_focus: NonNegative = 2.0
    """Exponent of the error that weights the background's objectness (quality focal loss, Li et al.
    2020, beta = 2); 0 gives plain binary cross-entropy."""
    exclusion_focus: NonNegative = 2.0
    """Same exponent in the loss of the exclusion. With 0 the many candidates that must be silent
    also silence those that are another opinion about a doubtful polyp."""
    looks: LookSettings = LookSettings()
    """The refiner's part."""
