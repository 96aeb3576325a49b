"""The loss of a slot detector: masked L1, an IoU term, and BCE whose target is the match's quality.

The one-to-one head learns from exclusive matches and the dense head from each box's best cells,
with the same terms, so that both rank cells alike.

Shapes: B batch, N cells, M ground-truth boxes (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from haustra.models.detector import DenseOutput, HeadOutput
from haustra.models.matching import (
    ONE_TO_MANY,
    ONE_TO_ONE,
    candidate_cells,
    match_greedy,
    match_quality,
    match_top_cells,
)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term counts."""

    objectness: float = 1.0
    l1: float = 2.5
    iou: float = 2.0
    one_to_many: float = 1.0
    """Of the dense head; training lets it fade."""


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


def _head_loss(
    head: HeadOutput,
    *,
    target_boxes: Tensor,
    positive: Tensor,
    target_scores: Tensor,
    focal: bool,
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Compute the terms of one head.

    Args:
        head: its proposals.
        target_boxes: [B,N,4], read where `positive`.
        positive: [B,N] bool.
        target_scores: [B,N] in 0..1, zero where not positive.
        focal: weigh background by its error, so that few positives are not drowned.
        weights: of the terms.
    """
    normaliser = target_scores.sum().clamp(min=1.0)
    bce = functional.binary_cross_entropy_with_logits(head.logits, target_scores, reduction="none")
    if focal:
        # Down-weight the easy background (quality focal loss, Li et al. 2020, beta = 2).
        focus = (target_scores - head.logits.detach().sigmoid()).abs() ** 2
        bce = torch.where(positive, bce, bce * focus)
    objectness = bce.sum() / normaliser
    predicted, wanted = head.boxes_xyxy[positive], target_boxes[positive]
    importance = target_scores[positive]
    l1 = ((predicted - wanted).abs().sum(dim=1) * importance).sum() / normaliser
    iou = ((1 - paired_giou(predicted, wanted)) * importance).sum() / normaliser
    return {
        "objectness": weights.objectness * objectness,
        "l1": weights.l1 * l1,
        "iou": weights.iou * iou,
    }


def detection_loss(
    output: DenseOutput,
    *,
    boxes_xyxy: Tensor,
    mask: Tensor,
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Compute the loss of both heads.

    Args:
        output: the proposals of a batch.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
        weights: of the terms.

    Returns:
        Scalars by name; "loss" is the sum that is minimised.
    """
    candidates = candidate_cells(output.cells_xy, output.cell_sizes, boxes_xyxy)
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=boxes_xyxy.device)
    for name, head in (("one", output.one_to_one), ("many", output.one_to_many)):
        with torch.no_grad():
            quality, iou = match_quality(
                head.logits,
                head.boxes_xyxy,
                boxes_xyxy=boxes_xyxy,
                mask=mask,
                candidates=candidates,
                powers=ONE_TO_ONE if name == "one" else ONE_TO_MANY,
            )
            if name == "one":
                box_of_cell, positive = _cells_of_greedy(match_greedy(quality), quality=quality)
            else:
                box_of_cell, positive = match_top_cells(quality)
            target_scores = _target_scores(quality, iou, box_of_cell, positive)
        target_boxes = boxes_xyxy.gather(1, box_of_cell[..., None].expand(-1, -1, 4))
        head_terms = _head_loss(
            head,
            target_boxes=target_boxes,
            positive=positive,
            target_scores=target_scores,
            # Of the one-to-one head every near-duplicate must go, the half-hearted ones too.
            focal=name == "many",
            weights=weights,
        )
        share = weights.one_to_many if name == "many" else 1.0
        for term, value in head_terms.items():
            terms[f"{name}_{term}"] = value.detach()
            total = total + share * value
    return {"loss": total, **terms}


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
