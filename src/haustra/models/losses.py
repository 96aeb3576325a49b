"""The loss of a slot detector: masked L1, an IoU term, and BCE whose target is the match's quality.

The dense heads learn from each box's best cells, the exclusion of BigDet from exclusive matches.

It has two halves: `assign_targets` and `assign_slots` match, without a gradient, and the rest is
plain arithmetic of static shapes, which any backend can run.

Shapes: B batch, N cells, K candidates, M ground-truth boxes (padded).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from haustra.models.detector import Candidates, DenseOutput
from haustra.models.loss_settings import LossSettings, MatchingSettings
from haustra.models.matching import (
    candidate_cells,
    match_greedy,
    match_quality,
    match_top_cells,
    pairwise_iou,
)


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the generalised IoU (Rezatofighi et al. 2019) of pairs [K,4], as [K] in -1..1."""
    low = torch.maximum(a_xyxy[:, :2], b_xyxy[:, :2])
    high = torch.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=1)
    area_a = (a_xyxy[:, 2:] - a_xyxy[:, :2]).prod(dim=1)
    area_b = (b_xyxy[:, 2:] - b_xyxy[:, :2]).prod(dim=1)
    union = (area_a + area_b - overlap).clamp(min=1e-9)
    hull_low = torch.minimum(a_xyxy[:, :2], b_xyxy[:, :2])
    hull_high = torch.maximum(a_xyxy[:, 2:], b_xyxy[:, 2:])
    hull = (hull_high - hull_low).prod(dim=1).clamp(min=1e-9)
    return overlap / union - (hull - union) / hull


class CellTargets(NamedTuple):
    """What the cells should say: constants, no gradient reaches them."""

    scores: Tensor
    """[B,N] in 0..1, the target of the objectness; 0 where a cell answers for no box."""
    positive: Tensor
    """[B,N] bool, whether a cell answers for a box."""
    boxes_xyxy: Tensor
    """[B,N,4] the box that it answers for; any box where it answers for none."""


@torch.no_grad()
def assign_targets(
    output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor, matching: MatchingSettings
) -> CellTargets:
    """Decide by matching what each cell should say; several may answer for one box.

    Args:
        output: the proposals of a batch.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
        matching: Settings of the matching.
    """
    possible = _possible_pairs(output, boxes_xyxy=boxes_xyxy, mask=mask, matching=matching)
    iou = pairwise_iou(output.boxes_xyxy, boxes_xyxy)
    quality = match_quality(
        output.objectness_logits, iou, possible=possible, powers=matching.one_to_many
    )
    box_of_cell, positive = match_top_cells(quality, num_top_cells=matching.num_top_cells)
    return CellTargets(
        scores=_target_scores(quality, iou, box_of_cell, positive),
        positive=positive,
        boxes_xyxy=boxes_xyxy.gather(1, box_of_cell[..., None].expand(-1, -1, 4)),
    )


@torch.no_grad()
def assign_slots(
    candidates: Candidates,
    output: DenseOutput,
    *,
    boxes_xyxy: Tensor,
    mask: Tensor,
    matching: MatchingSettings,
) -> Tensor:
    """Decide by exclusive matching what each candidate should say, [B,K] in 0..1.

    Args:
        candidates: of the proposals.
        output: the proposals of a batch.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
        matching: Settings of the matching.
    """
    cells = candidates.cells[..., None]
    proposed = output.boxes_xyxy.gather(1, cells.expand(-1, -1, 4))
    iou = pairwise_iou(proposed, boxes_xyxy)
    possible = _possible_pairs(output, boxes_xyxy=boxes_xyxy, mask=mask, matching=matching)
    possible = possible.gather(1, cells.expand(-1, -1, boxes_xyxy.shape[1]))
    quality = match_quality(candidates.logits, iou, possible=possible, powers=matching.one_to_one)
    matched = _cells_of_greedy(match_greedy(quality), quality=quality)
    return _target_scores(quality, iou, *matched)


def loss_from_targets(
    output: DenseOutput,
    targets: CellTargets,
    *,
    settings: LossSettings,
    iou_weight: float,
    every_cell: bool = False,
) -> dict[str, Tensor]:
    """Compute the differentiable terms of the dense heads' loss.

    Args:
        output: the proposals of a batch.
        targets: of `assign_targets`.
        settings: Settings of the loss.
        iou_weight: Weight of the IoU term.
        every_cell: compute the box terms of all cells, those without a box at no weight: static
            shapes, for graphs that are compiled and for GPUs, which would have to wait to know how
            many there are. The same value, with more work.

    Returns:
        Scalars by name; their sum is what is minimised.
    """
    logits, wanted = output.objectness_logits, targets.scores
    normaliser = wanted.sum().clamp(min=1.0)
    bce = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    # Easy background counts less.
    error = logits.detach().sigmoid()
    bce = torch.where(targets.positive, bce, bce * error**settings.background_focus)
    rows = (output.boxes_xyxy, targets.boxes_xyxy, wanted)
    predicted, true, scores = (
        tensor.flatten(0, 1) if every_cell else tensor[targets.positive] for tensor in rows
    )
    importance = scores / normaliser
    l1 = ((predicted - true).abs().sum(dim=1) * importance).sum()
    giou = ((1 - paired_giou(predicted, true)) * importance).sum()
    return {
        "objectness": bce.sum() / normaliser,
        "l1": settings.l1_weight * l1,
        "iou": iou_weight * giou,
    }


def slot_loss(candidates: Candidates, wanted: Tensor, *, settings: LossSettings) -> Tensor:
    """Compute the loss of the exclusion, a scalar, with the targets of `assign_slots`."""
    logits = candidates.logits
    bce = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    error = (logits.detach().sigmoid() - wanted).abs()
    return (bce * error**settings.exclusion_focus).sum() / wanted.sum().clamp(min=1.0)


def detection_loss(
    output: DenseOutput,
    candidates: Candidates | None,
    *,
    boxes_xyxy: Tensor,
    mask: Tensor,
    matching: MatchingSettings,
    settings: LossSettings,
    iou_weight: float,
    every_cell: bool = False,
) -> dict[str, Tensor]:
    """Compute the loss of the dense heads and of the exclusion.

    Args:
        output: the proposals of a batch.
        candidates: of these proposals; None for a model without exclusion.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
        matching: Settings of the matching.
        settings: Settings of the loss.
        iou_weight: Weight of the IoU term.
        every_cell: as of `loss_from_targets`.

    Returns:
        Scalars by name; "loss" is the sum that is minimised.
    """
    truth = {"boxes_xyxy": boxes_xyxy, "mask": mask}
    targets = assign_targets(output, **truth, matching=matching)
    terms = loss_from_targets(
        output, targets, settings=settings, iou_weight=iou_weight, every_cell=every_cell
    )
    if candidates is not None:
        wanted = assign_slots(candidates, output, **truth, matching=matching)
        terms["slots"] = slot_loss(candidates, wanted, settings=settings)
    loss = torch.stack(list(terms.values())).sum()
    return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


def _possible_pairs(
    output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor, matching: MatchingSettings
) -> Tensor:
    """Return which cells may answer for which boxes, [B,N,M] bool."""
    inside = candidate_cells(
        output.cells_xy,
        output.cell_sizes,
        boxes_xyxy,
        least_width_cells=matching.least_width_cells,
    )
    return inside & mask[:, None]


def _cells_of_greedy(matched: Tensor, *, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Turn [B,M] cells of boxes into [B,N] boxes of cells and [B,N] whether there is one."""
    batch, num_cells, _ = quality.shape
    box_of_cell = torch.zeros((batch, num_cells), dtype=torch.int64, device=quality.device)
    positive = torch.zeros((batch, num_cells), dtype=torch.bool, device=quality.device)
    row, box = torch.nonzero(matched >= 0, as_tuple=True)
    cell = matched[row, box]
    box_of_cell[row, cell] = box
    positive[row, cell] = True
    return box_of_cell, positive


def _target_scores(quality: Tensor, iou: Tensor, box_of_cell: Tensor, positive: Tensor) -> Tensor:
    """Scale each positive's quality so that a box's best cell gets that box's best IoU (TOOD)."""
    pick = box_of_cell[..., None]
    own_quality = quality.gather(2, pick)[..., 0].clamp(min=0) * positive
    own_iou = iou.gather(2, pick)[..., 0] * positive
    best_quality = torch.zeros_like(quality[:, 0])
    best_quality.scatter_reduce_(1, box_of_cell, own_quality, "amax")
    best_iou = torch.zeros_like(quality[:, 0])
    best_iou.scatter_reduce_(1, box_of_cell, own_iou, "amax")
    scaled = own_quality / best_quality.gather(1, box_of_cell).clamp(min=1e-9)
    return scaled * best_iou.gather(1, box_of_cell) * positive
