"""The loss of a slot detector: masked L1, an IoU term, and BCE whose target is the match's quality.

The dense heads learn from each box's best cells, the exclusion of BigDet from exclusive matches,
its refiner from labeled boxes with moved sides and from candidates. `assign_targets`,
`assign_slots` and `assign_looks` match, without a gradient. The rest is plain arithmetic of static
shapes, which any backend can run.

Shapes: B batch, N cells, K candidates, M labeled boxes (padded), R boxes that the refiner looks at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from haustra.models.detector import Candidates, DenseOutput, voted_boxes
from haustra.models.loss_settings import LookSettings, LossSettings, MatchingSettings
from haustra.models.matching import (
    candidate_cells,
    match_greedy,
    match_quality,
    match_top_cells,
    pairwise_iou,
)
from haustra.models.refiner import SecondLook, box_sizes

JITTER_STEPS = (0.8567, 0.7339, 0.6287, 0.5386)
"""Steps of a low-discrepancy sequence in four dimensions (Roberts 2018, R_4)."""


class DeviceBatch(NamedTuple):
    """A batch on the device that trains. B samples, M boxes at most."""

    images: Tensor  # uint8 [B,H,W,3]
    boxes_xyxy: Tensor
    """float32 [B,M,4]; rows that no image of the batch uses are left out, except the first."""
    mask: Tensor  # bool [B,M]


class CellTargets(NamedTuple):
    """Targets of the cells; no gradient reaches them."""

    scores: Tensor  # [B,N] in 0..1, the target of the objectness; 0 where a cell has no box
    positive: Tensor  # [B,N] bool, true where a cell has a box
    boxes_xyxy: Tensor  # [B,N,4] the cell's box; any box where it has none


class Looks(NamedTuple):
    """Boxes that the refiner looks at, with its targets; no gradient reaches them."""

    boxes_xyxy: Tensor  # [B,R,4]
    true_xyxy: Tensor  # [B,R,4] the labeled box that overlaps most; any box where none does
    ious: Tensor  # [B,R] IoU of the two
    used: Tensor  # [B,R] 1, or 0 for a moved box of an image that has none
    learns: Tensor  # [B,R] 1 where the sides of the labeled box are to be found, else 0


@dataclass(frozen=True, kw_only=True)
class DetectionLoss:
    """The loss of the dense heads, of the exclusion and of the refiner.

    Labeled boxes are `boxes_xyxy` [B,M,4], normalized to the image, and `mask` [B,M] bool, which is
    true for the rows that are boxes.
    """

    matching: MatchingSettings
    settings: LossSettings
    iou_weight: float  # weight of the IoU term

    def terms(
        self,
        output: DenseOutput,
        candidates: Candidates | None,
        *,
        boxes_xyxy: Tensor,
        mask: Tensor,
        every_cell: bool = False,
        look: Callable[[Tensor], SecondLook] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch and its terms.

        Args:
            output: Proposals of all cells.
            candidates: Candidates among them; None for a model without exclusion.
            boxes_xyxy: Labeled boxes.
            mask: Rows that are boxes.
            every_cell: Same as for `dense_terms`.
            look: The refiner with the batch's features; None for a model without one.

        Returns:
            Scalars by name; "loss" is the sum that is minimized.
        """
        targets = self.assign_targets(output, boxes_xyxy=boxes_xyxy, mask=mask)
        terms = self.dense_terms(output, targets, every_cell=every_cell)
        if candidates is not None:
            wanted = self.assign_slots(candidates, output, boxes_xyxy=boxes_xyxy, mask=mask)
            terms["slots"] = self.slot_term(candidates, wanted)
            if look is not None:
                looks = self.assign_looks(candidates, output, boxes_xyxy=boxes_xyxy, mask=mask)
                terms |= self.look_terms(look(looks.boxes_xyxy), looks)
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    @torch.no_grad()
    def assign_targets(
        self, output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor
    ) -> CellTargets:
        """Decide by matching which box each cell learns from; several cells may share a box."""
        possible = self._possible_pairs(output, boxes_xyxy=boxes_xyxy, mask=mask)
        iou = pairwise_iou(output.boxes_xyxy, boxes_xyxy)
        powers = self.matching.one_to_many
        quality = match_quality(output.objectness_logits, iou, possible=possible, powers=powers)
        box_of_cell, positive = match_top_cells(quality, num_top_cells=self.matching.num_top_cells)
        return CellTargets(
            scores=_target_scores(quality, iou, box_of_cell, positive),
            positive=positive,
            boxes_xyxy=boxes_xyxy.gather(1, box_of_cell[..., None].expand(-1, -1, 4)),
        )

    @torch.no_grad()
    def assign_slots(
        self, candidates: Candidates, output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor
    ) -> Tensor:
        """Return each candidate's target by exclusive matching, [B,K] in 0..1."""
        cells = candidates.cells[..., None]
        proposed = output.boxes_xyxy.gather(1, cells.expand(-1, -1, 4))
        iou = pairwise_iou(proposed, boxes_xyxy)
        possible = self._possible_pairs(output, boxes_xyxy=boxes_xyxy, mask=mask)
        possible = possible.gather(1, cells.expand(-1, -1, boxes_xyxy.shape[1]))
        powers = self.matching.one_to_one
        quality = match_quality(candidates.logits, iou, possible=possible, powers=powers)
        return _target_scores(quality, iou, *match_greedy(quality))

    def dense_terms(
        self, output: DenseOutput, targets: CellTargets, *, every_cell: bool = False
    ) -> dict[str, Tensor]:
        """Return the differentiable terms of the dense heads; their sum is minimized.

        Args:
            output: Proposals of all cells.
            targets: Result of `assign_targets`.
            every_cell: Compute the box terms of all cells, those without a box at no weight. The
                value is the same. Static shapes suit compiled graphs, and GPUs, which would have to
                wait for the number of cells with a box.
        """
        logits, wanted = output.objectness_logits, targets.scores
        normalizer = wanted.sum().clamp(min=1.0)
        bce = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        ease = logits.detach().sigmoid() ** self.settings.background_focus
        bce = torch.where(targets.positive, bce, bce * ease)
        rows = (output.boxes_xyxy, targets.boxes_xyxy, wanted)
        predicted, true, scores = (
            tensor.flatten(0, 1) if every_cell else tensor[targets.positive] for tensor in rows
        )
        importance = scores / normalizer
        l1 = ((predicted - true).abs().sum(dim=1) * importance).sum()
        giou = ((1 - paired_giou(predicted, true)) * importance).sum()
        return {
            "objectness": bce.sum() / normalizer,
            "l1": self.settings.l1_weight * l1,
            "iou": self.iou_weight * giou,
        }

    def slot_term(self, candidates: Candidates, wanted: Tensor) -> Tensor:
        """Return the loss of the exclusion, a scalar, with the targets of `assign_slots`."""
        logits = candidates.logits
        bce = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        error = (logits.detach().sigmoid() - wanted).abs() ** self.settings.exclusion_focus
        return (bce * error).sum() / wanted.sum().clamp(min=1.0)

    @torch.no_grad()
    def assign_looks(
        self, candidates: Candidates, output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor
    ) -> Looks:
        """Choose the boxes that the refiner looks at, and its targets."""
        settings = self.settings.looks
        best = candidates.logits.topk(min(settings.num_own, candidates.logits.shape[1]), dim=1)
        own = voted_boxes(candidates.cells.gather(1, best.indices), output).clamp(0, 1)
        rows = torch.cat([own, jittered_boxes(boxes_xyxy, mask, settings=settings)], dim=1)
        iou = pairwise_iou(rows, boxes_xyxy).masked_fill(~mask[:, None], 0.0)
        ious, nearest = iou.max(dim=2)
        is_own = torch.arange(rows.shape[1], device=rows.device) < own.shape[1]
        used = is_own | mask.any(dim=1, keepdim=True)
        return Looks(
            boxes_xyxy=rows,
            true_xyxy=boxes_xyxy.gather(1, nearest[..., None].expand(-1, -1, 4)),
            ious=ious,
            used=used.float(),
            learns=(used & (ious > settings.least_iou)).float(),
        )

    def look_terms(self, look: SecondLook, looks: Looks) -> dict[str, Tensor]:
        """Return the loss of the refiner for the boxes of `assign_looks`."""
        settings, learns, used = self.settings.looks, looks.learns, looks.used
        lengths = box_sizes(looks.true_xyxy).clamp(min=1e-3)
        l1 = ((look.boxes_xyxy - looks.true_xyxy).abs() / lengths).mean(dim=2)
        giou = paired_giou(look.boxes_xyxy.flatten(0, 1), looks.true_xyxy.flatten(0, 1))
        sides = ((1 - giou.reshape(l1.shape) + l1) * learns).sum() / learns.sum().clamp(min=1.0)
        logits, wanted = look.iou_logits, looks.ious
        bce = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        quality = (bce * used).sum() / used.sum().clamp(min=1.0)
        return {"sides": settings.sides_weight * sides, "look": settings.iou_weight * quality}

    def _possible_pairs(self, output: DenseOutput, *, boxes_xyxy: Tensor, mask: Tensor) -> Tensor:
        """Return which cells may match which boxes, [B,N,M] bool."""
        width = self.matching.least_width_cells
        inside = candidate_cells(
            output.cells_xy, output.cell_sizes, boxes_xyxy, least_width_cells=width
        )
        return inside & mask[:, None]


def jittered_boxes(boxes_xyxy: Tensor, mask: Tensor, *, settings: LookSettings) -> Tensor:
    """Return [B,J,4]: the boxes of each image in turns, each side moved.

    The moves are a function of the boxes, so that nothing has to be remembered for the same seed to
    give the same weights.
    """
    number = torch.arange(settings.num_jittered, device=mask.device)
    turn = number % mask.sum(dim=1, keepdim=True).clamp(min=1)
    row = mask.int().argsort(dim=1, descending=True, stable=True).gather(1, turn)
    boxes = boxes_xyxy.gather(1, row[..., None].expand(-1, -1, 4))
    # The digits of a box far behind the point are as good as random.
    sequence = number[:, None] * torch.tensor(JITTER_STEPS, device=mask.device)
    moves = (sequence + 9973 * boxes.sum(dim=2, keepdim=True)).frac() * 2 - 1
    # Five and eight have no common divisor: each box of an image gets small and large moves.
    share = ((number * 5) % settings.num_jittered + 0.5) / settings.num_jittered
    return boxes + settings.largest_jitter * share[:, None] * moves * box_sizes(boxes)


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the generalized IoU (Rezatofighi et al. 2019) of pairs [K,4], as [K] in -1..1."""
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
