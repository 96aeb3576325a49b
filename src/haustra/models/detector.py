"""TinyDet and BigDet: one slot detector in two sizes.

Every cell of the feature maps proposes a box and an objectness; the `num_slots` best become the
output slots, with no suppression after them. What makes that work is training: dense heads learn
the boxes from several cells of each polyp, while selectors learn, by exclusive matching, to raise a
single one (dual assignment, Wang et al. 2024, YOLOv10).

TinyDet is the same with one slot, a thin trunk and a single map of stride 16.

Shapes: B batch, N cells of all levels, S slots, H and W of the image.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from haustra.models.backbone import Backbone, ConvUnit, FeaturePyramid
from haustra.models.efficientnet import WIDTHS as EFFICIENTNET_WIDTHS
from haustra.models.efficientnet import EfficientNetLite0
from haustra.models.matching import pairwise_iou

ModelKind = Literal["tiny", "big"]
BackboneKind = Literal["plain", "efficientnet-lite0"]

PRIOR_LOGIT = math.log(0.01 / 0.99)
"""Initial objectness, 0.01 as a probability (Lin et al. 2017, RetinaNet, section 4.1)."""
SELECTOR_CHANNELS = 48
SELECTOR_INIT_STD = 0.15
"""About 1 / sqrt(SELECTOR_CHANNELS)."""
OBJECTNESS_SHARE = 0.05
"""Of the dense objectness in a slot's logit: learned from more cells, it knows better how well a
box fits, but says nothing against duplicates; with more of it they come back."""
LARGEST_REACH = 6.0
"""Bound on the exponent of a predicted reach, so that an untrained box stays finite."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What decides a detector's shape; stored in its checkpoint."""

    kind: ModelKind
    num_slots: int
    """Boxes in the output: 1 for tiny, the warehouse's max_boxes for big."""
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_levels: int
    """How many of the deepest maps the pyramid and the heads use."""
    neck: int
    """Channels of the pyramid and the heads."""
    backbone: BackboneKind = "plain"
    """efficientnet-lite0 has its own stem and depths, and takes ImageNet weights."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"widths": list(self.widths), "depths": list(self.depths)}


def config_from_json(value: dict[str, Any]) -> ModelConfig:
    """Rebuild a config from `to_json`."""
    fields = value | {"widths": tuple(value["widths"]), "depths": tuple(value["depths"])}
    return ModelConfig(**fields)


def default_config(
    kind: ModelKind, *, max_boxes: int, backbone: BackboneKind = "plain"
) -> ModelConfig:
    """Return the shape of TinyDet or BigDet for a warehouse of `max_boxes`.

    TinyDet has the plain backbone only.
    """
    if kind == "tiny":
        return ModelConfig(
            kind="tiny",
            num_slots=1,
            widths=(32, 64, 96, 96),
            depths=(0, 0, 1, 1),
            num_levels=2,
            neck=48,
        )
    is_plain = backbone == "plain"
    return ModelConfig(
        kind="big",
        num_slots=max_boxes,
        widths=(48, 96, 160, 256) if is_plain else EFFICIENTNET_WIDTHS,
        depths=(1, 1, 3, 1) if is_plain else (),
        num_levels=3,
        neck=96,
        backbone=backbone,
    )


class DenseOutput(NamedTuple):
    """What every cell proposes, for training."""

    objectness_logits: Tensor
    """[B,N] of the dense heads, before the sigmoid: is there a polyp?"""
    selection_logits: Tensor
    """[B,N] of the selectors, before the sigmoid: does this cell speak for it?"""
    boxes_xyxy: Tensor
    """[B,N,4] of the dense heads, normalised to the image; may leave 0..1."""
    cells_xy: Tensor
    """[N,2] cell centres normalised to the image."""
    cell_sizes: Tensor
    """[N,2] cell width and height normalised to the image."""


class SlotOutput(NamedTuple):
    """The detector's answer."""

    logits: Tensor
    """[B,S], falling."""
    boxes_xyxy: Tensor
    """[B,S,4] normalised to the image, inside 0..1."""


class LevelHead(nn.Module):
    """What is at each cell of one level: objectness, and the reach to the four sides.

    The reach is FCOS's (Tian et al. 2019).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.tower = nn.Sequential(ConvUnit(in_channels, channels), ConvUnit(channels, channels))
        self.predict = nn.Conv2d(channels, 5, 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        # Polyps of real frames span several cells: begin with boxes of about 4 x 4.
        self.predict.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT, 0.7, 0.7, 0.7, 0.7]))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B,C,H,W] to the tower's features [B,C',H,W] and the raw predictions [B,5,H,W]."""
        tower: Tensor = self.tower(features)
        return tower, self.predict(tower)


class LevelSelector(nn.Module):
    """Which one cell speaks for a polyp: sees a level's features and all levels' objectness."""

    def __init__(self, channels: int, *, num_levels: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(
            ConvUnit(channels + num_levels, SELECTOR_CHANNELS),
            ConvUnit(SELECTOR_CHANNELS, SELECTOR_CHANNELS),
        )
        # With weights as small as the heads', the many cells that must be silent switch the
        # features off before the few that must speak have found any.
        self.predict = nn.Conv2d(SELECTOR_CHANNELS, 1, 1)
        nn.init.normal_(self.predict.weight, std=SELECTOR_INIT_STD)
        self.predict.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT]))

    def forward(self, features: Tensor, objectness: list[Tensor]) -> Tensor:
        """Map [B,C,H,W] and the levels' objectness [B,1,*,*] to logits [B,1,H,W]."""
        size = features.shape[2:]
        seen = [_resize_objectness(level, size) for level in objectness]
        logits: Tensor = self.predict(self.compare(torch.cat([features, *seen], dim=1)))
        return logits


def _resize_objectness(objectness: Tensor, size: torch.Size) -> Tensor:
    """Bring a level's objectness to the size of another: the best of what falls together."""
    if objectness.shape[2] > size[0]:
        ratio = objectness.shape[2] // size[0]
        return functional.max_pool2d(objectness, ratio)
    if objectness.shape[2] < size[0]:
        return functional.interpolate(objectness, scale_factor=size[0] / objectness.shape[2])
    return objectness


class SlotDetector(nn.Module):
    """TinyDet or BigDet, by its config. Build it with `build_model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Backbone | EfficientNetLite0
        if config.backbone == "plain":
            self.backbone = Backbone(widths=config.widths, depths=config.depths)
        else:
            self.backbone = EfficientNetLite0()
        # One slot needs no fine map: TinyDet reads the stride-16 level, which has seen them all.
        self.num_read_levels = 1 if config.kind == "tiny" else config.num_levels
        self.pyramid = FeaturePyramid(
            config.widths[-config.num_levels :],
            out_channels=config.neck,
            num_levels=self.num_read_levels,
        )
        # A head per level: sharing one would share its batch normalisation, whose running
        # statistics then fit no level. Of several levels the finest has half the channels, since
        # it has most of the cells.
        finest = config.neck if self.num_read_levels == 1 else config.neck // 2
        widths = [finest] + [config.neck] * (self.num_read_levels - 1)
        self.heads = nn.ModuleList(LevelHead(config.neck, width) for width in widths)
        self.selectors = nn.ModuleList(
            LevelSelector(width, num_levels=self.num_read_levels) for width in widths
        )

    def _features(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.pyramid(self.backbone(images)[-self.config.num_levels :])
        return levels

    def _cells(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        centres, sizes = [], []
        for features in maps:
            height, width = features.shape[2:]
            y, x = torch.meshgrid(
                (torch.arange(height, device=features.device) + 0.5) / height,
                (torch.arange(width, device=features.device) + 0.5) / width,
                indexing="ij",
            )
            centre = torch.stack([x, y], dim=-1).reshape(-1, 2)
            centres.append(centre)
            sizes.append(torch.tensor([1 / width, 1 / height]).to(centre).expand_as(centre))
        return torch.cat(centres), torch.cat(sizes)

    def dense(self, images: Tensor, *, selector_share: float | Tensor = 1.0) -> DenseOutput:
        """Map float images [B,3,H,W] in 0..1 to the proposals of all cells, fine levels first.

        `selector_share` (0..1) is how much of the selectors' gradient reaches the features under
        them: their few positives would fight the dense signal while the features are young. As a
        scalar tensor it is an input of an exported graph.
        """
        maps = self._features(images)
        cells_xy, cell_sizes = self._cells(maps)
        towers, raw = zip(
            *(head(features) for head, features in zip(self.heads, maps, strict=True)), strict=True
        )
        objectness = [prediction[:, :1].detach() for prediction in raw]
        selected = [
            selector(_share_gradient(tower, selector_share), objectness)
            for selector, tower in zip(self.selectors, towers, strict=True)
        ]
        flat = torch.cat([prediction.flatten(2) for prediction in raw], dim=2).float()
        reach = flat[:, 1:].clamp(max=LARGEST_REACH).exp().transpose(1, 2)
        low = cells_xy - reach[..., :2] * cell_sizes
        high = cells_xy + reach[..., 2:] * cell_sizes
        return DenseOutput(
            objectness_logits=flat[:, 0],
            selection_logits=torch.cat([logits.flatten(1) for logits in selected], dim=1).float(),
            boxes_xyxy=torch.cat([low, high], dim=2),
            cells_xy=cells_xy,
            cell_sizes=cell_sizes,
        )

    def forward(self, images: Tensor) -> SlotOutput:
        """Map float images [B,3,H,W] in 0..1 to the slots, best first."""
        return self.select(self.dense(images))

    def select(self, proposals: DenseOutput) -> SlotOutput:
        """Turn the proposals of all cells into the slots, best first."""
        ranked = torch.lerp(
            proposals.selection_logits, proposals.objectness_logits, OBJECTNESS_SHARE
        )
        logits, best = ranked.topk(self.config.num_slots, dim=1)
        chosen = proposals.boxes_xyxy.gather(1, best[..., None].expand(-1, -1, 4))
        return SlotOutput(logits, _voted_boxes(chosen, proposals).clamp(0, 1))


def _voted_boxes(chosen_xyxy: Tensor, proposals: DenseOutput) -> Tensor:
    """Let every cell that sees the same polyp vote on the box of the cell that speaks for it.

    Returns [B,S,4]: the mean of all boxes, weighted by objectness^2 * IoU^8 with the chosen one
    (weighted boxes fusion, Solovyev et al. 2021, with the IoU in place of a threshold).
    """
    overlap = pairwise_iou(chosen_xyxy, proposals.boxes_xyxy)
    for _ in range(3):
        overlap = overlap * overlap
    objectness = proposals.objectness_logits.sigmoid()
    weights = overlap * (objectness * objectness)[:, None]
    total = weights.sum(dim=2, keepdim=True)
    voted = weights @ proposals.boxes_xyxy / total.clamp(min=1e-12)
    # An untrained box may be empty, and overlap nothing, itself included.
    return torch.where(total > 1e-12, voted, chosen_xyxy)


def _share_gradient(features: Tensor, share: float | Tensor) -> Tensor:
    if not isinstance(share, Tensor) and (share == 1 or not features.requires_grad):
        return features
    return share * features + (1 - share) * features.detach()


def build_model(config: ModelConfig) -> SlotDetector:
    """Build an untrained detector; its weights come from PyTorch's current random state."""
    model = SlotDetector(config)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
