"""TinyDet and BigDet: one slot detector in two sizes.

Every cell of the feature maps proposes a box and an objectness, learned from several cells of each
polyp. In BigDet the best cells become candidates, and an `Exclusion`, learned by exclusive
matching, lowers the score of each one that has a better one beside it. The best `num_slots` of them
are the output, without post-processing. A `Refiner` looks at them again and has a say in their
rank.

TinyDet has a thin backbone, a single map of stride 16 and one slot, which needs no exclusion.

Shapes: B batch, N cells of all levels, K candidates, S slots, H and W of the image.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from haustra.models import efficientnet
from haustra.models.backbone import Backbone, ConvUnit, FeaturePyramid
from haustra.models.efficientnet import EfficientNetLite0
from haustra.models.matching import pairwise_iou
from haustra.models.refiner import Refiner

ModelKind = Literal["tiny", "big"]
BackboneKind = Literal["plain", "efficientnet-lite0"]

PRIOR_LOGIT = math.log(0.01 / 0.99)
"""Initial objectness, 0.01 as a probability (Lin et al. 2017, RetinaNet, section 4.1)."""
NUM_CANDIDATES = 128
"""Number of best cells of an image that become candidates. A large polyp takes dozens of them."""
EXCLUSION_ROUNDS = 5
"""Rounds of the exclusion. They make an excluded candidate stop excluding others."""
LARGEST_REACH = 6.0
"""Bound on the exponent of a predicted reach, so that an untrained box stays finite."""

NUM_LOOKS = 8
"""Number of best slots that the refiner looks at; four were enough for Kvasir-SEG."""
LOOK_SHARE = 1 / 3
"""Share of the second look in a slot's score, as logits. Shares from 0.2 to 0.5 rank alike."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of a detector's architecture; stored in its checkpoint."""

    kind: ModelKind
    num_slots: int  # boxes in the output: 1 for tiny, the warehouse's max_boxes for big
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    """Residual blocks at each stride from 4; for efficientnet-lite0 the number of frozen blocks and
    of trained blocks after them."""
    num_levels: int  # number of deepest maps that the pyramid and the heads use
    neck: int  # channels of the pyramid and the heads
    backbone: BackboneKind = "plain"
    """Kind of backbone; efficientnet-lite0 has its own stem, and ImageNet weights."""
    expansion: float = 1.0
    """Channels inside a residual block of the plain backbone, as a share of those around it."""
    refines: bool = False
    """True if a refiner looks at the slots again; older checkpoints have none."""


def default_config(
    kind: ModelKind,
    *,
    max_boxes: int,
    backbone: BackboneKind = "plain",
    finest_stride: Literal[4, 8] = 8,
) -> ModelConfig:
    """Return the architecture of TinyDet or BigDet for a warehouse of `max_boxes`.

    TinyDet has the plain backbone only, and BigDet a stride of 4 with that one only.
    """
    if kind == "tiny":
        return ModelConfig(
            kind="tiny",
            num_slots=1,
            widths=(32, 64, 96, 96),
            depths=(0, 0, 1, 1),
            num_levels=2,
            neck=48,
            expansion=0.5,
        )
    is_plain = backbone == "plain"
    return ModelConfig(
        kind="big",
        num_slots=max_boxes,
        widths=(32, 64, 128, 192) if is_plain else efficientnet.feature_widths(efficientnet.DEPTHS),
        depths=(0, 1, 3, 1) if is_plain else efficientnet.DEPTHS,
        num_levels=4 if finest_stride == 4 else 3,
        neck=64,
        backbone=backbone,
        expansion=0.5 if is_plain else 1.0,
        refines=True,
    )


def count_cells(config: ModelConfig, *, size_wh: tuple[int, int]) -> int:
    """Return the number of cells of all levels for an image whose sides are multiples of 32."""
    width, height = size_wh
    return sum(
        (width >> level) * (height >> level) for level in range(5, 5 - config.num_levels, -1)
    )


class DenseOutput(NamedTuple):
    """Proposals of all cells."""

    objectness_logits: Tensor  # [B,N] scores before the sigmoid, for a polyp whose box fits
    boxes_xyxy: Tensor  # [B,N,4] normalized to the image; may leave 0..1
    features: Tensor  # [B,C,H,W] finest map, for the refiner
    cells_xy: Tensor  # [N,2] cell centers normalized to the image
    cell_sizes: Tensor  # [N,2] cell widths and heights normalized to the image


class Candidates(NamedTuple):
    """Cells that may become slots."""

    cells: Tensor  # [B,K] int64 numbers of the cells, by falling objectness
    logits: Tensor  # [B,K] scores after exclusion, before the sigmoid, for the one box of a polyp


class SlotOutput(NamedTuple):
    """Output of the detector."""

    logits: Tensor  # [B,S] scores before the sigmoid, falling
    boxes_xyxy: Tensor  # [B,S,4] normalized to the image, inside 0..1


class LevelHead(nn.Module):
    """Predicts the objectness of each cell of a level, and the reach to the four sides of its box.

    The reach is that of FCOS (Tian et al. 2019).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.tower = nn.Sequential(ConvUnit(in_channels, channels), ConvUnit(channels, channels))
        self.predict = nn.Conv2d(channels, 5, 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        # Polyps of real frames span several cells: the first boxes have about 4 x 4.
        self.predict.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT, 0.7, 0.7, 0.7, 0.7]))

    def forward(self, features: Tensor) -> Tensor:
        """Map [B,C,H,W] to the raw predictions [B,5,H,W]."""
        predictions: Tensor = self.predict(self.tower(features))
        return predictions


class Exclusion(nn.Module):
    """Lowers the score of a candidate that has a better one on the same polyp beside it.

    It compares pairs of candidates and learns by exclusive matching, instead of non-maximum
    suppression (relation networks, Hu et al. 2018, section 4.3). A logistic function of the IoU
    estimates whether two boxes belong to the same polyp. A candidate loses by the strongest of the
    better ones, unless that one is itself excluded. All five numbers are learned. Selectors that
    saw features, and pairs of scores beside the IoU, did worse (dev/lab_log.md).
    """

    def __init__(self) -> None:
        super().__init__()
        # The values are near those at the end of trainings.
        self.iou_logarithmic_slope = nn.Parameter(torch.tensor(math.log(12.0)))
        self.iou_middle = nn.Parameter(torch.tensor(0.75))
        self.logarithmic_strength = nn.Parameter(torch.tensor(math.log(7.0)))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(-0.3))

    def forward(self, logits: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """Map logits [B,K], falling, and boxes [B,K,4] to logits [B,K] after exclusion."""
        iou = pairwise_iou(boxes_xyxy, boxes_xyxy)
        same = torch.sigmoid(self.iou_logarithmic_slope.exp() * (iou - self.iou_middle))
        # Only better candidates exclude, which are the columns before a row's own.
        loss = (self.logarithmic_strength.exp() * same).tril(-1)
        excluded = torch.zeros_like(logits)
        for _ in range(EXCLUSION_ROUNDS):
            excluded = (loss * (-excluded).exp()[:, None]).amax(dim=2)
        return self.scale * logits + self.shift - excluded


class SlotDetector(nn.Module):
    """TinyDet or BigDet, by its config. Build it with `build_model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Backbone | EfficientNetLite0
        if config.backbone == "plain":
            self.backbone = Backbone(
                widths=config.widths, depths=config.depths, expansion=config.expansion
            )
        else:
            self.backbone = EfficientNetLite0(config.depths)
        # One slot needs no fine map: TinyDet reads the stride-16 level, which includes the others.
        self.num_read_levels = 1 if config.kind == "tiny" else config.num_levels
        self.pyramid = FeaturePyramid(
            config.widths[-config.num_levels :],
            out_channels=config.neck,
            num_levels=self.num_read_levels,
        )
        # A head per level: a shared one would share its batch normalization, whose running
        # statistics then fit no level. The finest of several levels has half the channels, because
        # it has most of the cells.
        finest = config.neck if self.num_read_levels == 1 else config.neck // 2
        widths = [finest] + [config.neck] * (self.num_read_levels - 1)
        self.heads = nn.ModuleList(LevelHead(config.neck, width) for width in widths)
        self.exclusion = Exclusion() if config.kind == "big" else None
        self.refiner = Refiner(config.neck) if config.refines else None

    def _cells(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        centers, sizes = [], []
        for features in maps:
            height, width = features.shape[2:]
            y, x = torch.meshgrid(
                (torch.arange(height, device=features.device) + 0.5) / height,
                (torch.arange(width, device=features.device) + 0.5) / width,
                indexing="ij",
            )
            center = torch.stack([x, y], dim=-1).reshape(-1, 2)
            centers.append(center)
            sizes.append(torch.tensor([1 / width, 1 / height]).to(center).expand_as(center))
        return torch.cat(centers), torch.cat(sizes)

    def dense(self, images: Tensor) -> DenseOutput:
        """Map float images [B,3,H,W] in 0..1 to the proposals of all cells, fine levels first."""
        maps: list[Tensor] = self.pyramid(self.backbone(images)[-self.config.num_levels :])
        raw = [head(features) for head, features in zip(self.heads, maps, strict=True)]
        cells_xy, cell_sizes = self._cells(maps)
        flat = torch.cat([prediction.flatten(2) for prediction in raw], dim=2).float()
        reach = flat[:, 1:].clamp(max=LARGEST_REACH).exp().transpose(1, 2)
        low = cells_xy - reach[..., :2] * cell_sizes
        high = cells_xy + reach[..., 2:] * cell_sizes
        return DenseOutput(
            objectness_logits=flat[:, 0],
            boxes_xyxy=torch.cat([low, high], dim=2),
            features=maps[0],
            cells_xy=cells_xy,
            cell_sizes=cell_sizes,
        )

    def forward(self, images: Tensor) -> SlotOutput:
        """Map float images [B,3,H,W] in 0..1 to the slots, best first."""
        return self.select(self.dense(images))

    def candidates(self, proposals: DenseOutput) -> Candidates:
        """Choose the best cells, and apply the exclusion if the model has one.

        The gradient of the logits reaches only the exclusion.
        """
        objectness = proposals.objectness_logits.detach()
        wanted = 1 if self.exclusion is None else max(NUM_CANDIDATES, self.config.num_slots)
        logits, cells = objectness.topk(min(wanted, objectness.shape[1]), dim=1)
        if self.exclusion is not None:
            logits = self.exclusion(logits, _rows(proposals.boxes_xyxy.detach(), cells))
        return Candidates(cells, logits)

    def select(self, proposals: DenseOutput) -> SlotOutput:
        """Turn the proposals of all cells into the slots, best first."""
        cells, logits = self.candidates(proposals)
        if self.exclusion is not None:
            logits, best = logits.topk(self.config.num_slots, dim=1)
            cells = cells.gather(1, best)
        boxes = voted_boxes(cells, proposals).clamp(0, 1)
        if self.refiner is None:
            return SlotOutput(logits, boxes)
        first, others = logits[:, :NUM_LOOKS], logits[:, NUM_LOOKS:]
        look = self.refiner(proposals.features, boxes[:, :NUM_LOOKS])
        first = first + LOOK_SHARE * (look.iou_logits - first)
        logits, order = torch.cat([first, others], dim=1).topk(logits.shape[1], dim=1)
        return SlotOutput(logits, _rows(boxes, order))


def _rows(boxes_xyxy: Tensor, rows: Tensor) -> Tensor:
    """Return the boxes [B,K,4] of rows [B,K]."""
    return boxes_xyxy.gather(1, rows[..., None].expand(-1, -1, 4))


def voted_boxes(cells: Tensor, proposals: DenseOutput) -> Tensor:
    """Return boxes [B,K,4] for cells [B,K].

    Each is the mean of all boxes, weighted by objectness^2 * IoU^8 with the cell's own box. All
    cells that see the same polyp thus vote on its box (weighted boxes fusion, Solovyev et al. 2021,
    with the IoU instead of a threshold).
    """
    chosen_xyxy = _rows(proposals.boxes_xyxy, cells)
    overlap = pairwise_iou(chosen_xyxy, proposals.boxes_xyxy)
    for _ in range(3):
        overlap = overlap * overlap
    objectness = proposals.objectness_logits.sigmoid()
    weights = overlap * (objectness * objectness)[:, None]
    total = weights.sum(dim=2, keepdim=True)
    voted = weights @ proposals.boxes_xyxy / total.clamp(min=1e-12)
    # An untrained box may be empty, and overlap nothing, itself included.
    return torch.where(total > 1e-12, voted, chosen_xyxy)


def build_model(config: ModelConfig) -> SlotDetector:
    """Build an untrained detector; its weights come from PyTorch's current random state."""
    model = SlotDetector(config)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
