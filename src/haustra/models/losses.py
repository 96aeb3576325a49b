"""The loss of a slot detector: masked L1, an IoU term, and BCE whose target is the match's quality.

The dense heads learn from each box's best cells, the selectors from exclusive matches. The terms
are the same for both, so that both rank cells alike.

It has two halves: `assign_targets` matches, without a gradient, and `loss_from_targets` is plain
arithmetic of static shapes, which any backend can run.

Shapes: B batch, N cells, M ground-truth boxes (padded).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from haustra.models.detector import DenseOutput
from haustra.models.matching import (
    ONE_TO_MANY,
    ONE_TO_ONE,
    candidate_cells,
    match_greedy,
    match_quality,
    match_top_cells,
    pairwise_iou,
)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term counts."""

    l1: float = 5.0
    iou: float = 4.0


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
    """What the cells of one head should say."""

    scores: Tensor
    """[B,N] in 0..1, the target of the objectness; 0 where a cell answers for no box."""
    positive: Tensor
    """[B,N] bool, whether a cell answers for a box."""
    boxes_xyxy: Tensor
    """[B,N,4] the box that it answers for; any box where it answers for none."""


class Targets(NamedTuple):
    """What all cells should say: constants, no gradient reaches them."""

    dense: CellTargets
    selected: CellTargets


@torch.no_grad()
def assign_targets(output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor) -> Targets:
    """Decide by matching what each cell should say.

    Args:
        output: the proposals of a batch.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
    """
    candidates = candidate_cells(output.cells_xy, output.cell_sizes, boxes_xyxy)
    iou = pairwise_iou(output.boxes_xyxy, boxes_xyxy)
    possible = candidates & mask[:, None]

    def targets(quality: Tensor, box_of_cell: Tensor, positive: Tensor) -> CellTargets:
        return CellTargets(
            scores=_target_scores(quality, iou, box_of_cell, positive),
            positive=positive,
            boxes_xyxy=boxes_xyxy.gather(1, box_of_cell[..., None].expand(-1, -1, 4)),
        )

    for_many = match_quality(output.objectness_logits, iou, possible=possible, powers=ONE_TO_MANY)
    for_one = match_quality(output.selection_logits, iou, possible=possible, powers=ONE_TO_ONE)
    return Targets(
        dense=targets(for_many, *match_top_cells(for_many)),
        selected=targets(for_one, *_cells_of_greedy(match_greedy(for_one), quality=for_one)),
    )


def loss_from_targets(
    output: DenseOutput, targets: Targets, *, weights: LossWeights, every_cell: bool = False
) -> dict[str, Tensor]:
    """Compute the differentiable terms of the loss.

    Args:
        output: the proposals of a batch.
        targets: of `assign_targets`.
        weights: of the terms.
        every_cell: compute the box terms of all cells, those without a box at no weight: static
            shapes, for graphs that are compiled and for GPUs, which would have to wait to know how
            many there are. The same value, with more work.

    Returns:
        Scalars by name; their sum is what is minimised.
    """
    terms: dict[str, Tensor] = {}
    for name, logits, wanted in (
        ("dense", output.objectness_logits, targets.dense),
        ("selected", output.selection_logits, targets.selected),
    ):
        normaliser = wanted.scores.sum().clamp(min=1.0)
        bce = functional.binary_cross_entropy_with_logits(logits, wanted.scores, reduction="none")
        if name == "dense":
            # Down-weight the easy background (quality focal loss, Li et al. 2020, beta = 2). Not
            # for the selectors: every near-duplicate must go, the half-hearted ones too.
            bce = torch.where(wanted.positive, bce, bce * logits.detach().sigmoid() ** 2)
        terms[f"{name}_objectness"] = bce.sum() / normaliser
        # The boxes are the dense heads'. That of the cell which speaks counts once more.
        rows = (output.boxes_xyxy, wanted.boxes_xyxy, wanted.scores)
        predicted, true, scores = (
            tensor.flatten(0, 1) if every_cell else tensor[wanted.positive] for tensor in rows
        )
        importance = scores / normaliser
        l1 = ((predicted - true).abs().sum(dim=1) * importance).sum()
        giou = ((1 - paired_giou(predicted, true)) * importance).sum()
        terms[f"{name}_l1"] = weights.l1 * l1
        terms[f"{name}_iou"] = weights.iou * giou
    return terms


def detection_loss(
    output: DenseOutput,
    *,
    boxes_xyxy: Tensor,
    mask: Tensor,
    weights: LossWeights,
    every_cell: bool = False,
) -> dict[str, Tensor]:
    """Compute the loss of the dense heads and of the selectors.

    Args:
        output: the proposals of a batch.
        boxes_xyxy: [B,M,4] ground truth, normalised to the image.
        mask: [B,M] bool, which rows of it are boxes.
        weights: of the terms.
        every_cell: as of `loss_from_targets`.

    Returns:
        Scalars by name; "loss" is the sum that is minimised.
    """
    targets = assign_targets(output, boxes_xyxy=boxes_xyxy, mask=mask)
    terms = loss_from_targets(output, targets, weights=weights, every_cell=every_cell)
    loss = torch.stack(list(terms.values())).sum()
    return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


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
