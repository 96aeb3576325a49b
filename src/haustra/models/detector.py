"""TinyDet and BigDet: one slot detector in two sizes.

Every cell of the feature maps proposes a box and an objectness; the `num_slots` best become the
output slots, with no suppression after them. What makes that work is training: a one-to-one head
learns, by exclusive matching, to raise a single cell per polyp, while a one-to-many head, dropped
at inference, gives the trunk a dense signal (dual assignment, Wang et al. 2024, YOLOv10).

TinyDet is the same with one slot, a thin trunk and a single map of stride 16.

Shapes: B batch, N cells of all levels, S slots, H and W of the image.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from haustra.models.backbone import Backbone, ConvUnit, FeaturePyramid

ModelKind = Literal["tiny", "big"]

PRIOR_OBJECTNESS = 0.01
"""Initial probability of a polyp in a cell (Lin et al. 2017, RetinaNet, section 4.1)."""
LARGEST_REACH = 6.0
"""Bound on the exponent of a predicted reach, so that an untrained box stays finite."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What decides a detector's shape; stored in its checkpoint."""

    kind: ModelKind
    num_slots: int
    """Boxes in the output: 1 for tiny, the warehouse's max_boxes for big."""
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_levels: int
    """How many of the deepest maps the pyramid and the heads use."""
    neck: int
    """Channels of the pyramid and the heads."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"widths": list(self.widths), "depths": list(self.depths)}


def config_from_json(value: dict[str, Any]) -> ModelConfig:
    """Rebuild a config from `to_json`."""
    fields = value | {"widths": tuple(value["widths"]), "depths": tuple(value["depths"])}
    return ModelConfig(**fields)


def default_config(kind: ModelKind, *, max_boxes: int) -> ModelConfig:
    """Return the shape of TinyDet or BigDet for a warehouse of `max_boxes`."""
    if kind == "tiny":
        return ModelConfig(
            kind="tiny",
            num_slots=1,
            stem=16,
            widths=(24, 40, 64, 96),
            depths=(1, 1, 1, 1),
            num_levels=2,
            neck=48,
        )
    return ModelConfig(
        kind="big",
        num_slots=max_boxes,
        stem=24,
        widths=(32, 64, 128, 192),
        depths=(1, 2, 2, 1),
        num_levels=3,
        neck=96,
    )


class HeadOutput(NamedTuple):
    """What one head proposes at every cell."""

    logits: Tensor
    """[B,N] objectness before the sigmoid."""
    boxes_xyxy: Tensor
    """[B,N,4] normalised to the image; may leave 0..1."""


class DenseOutput(NamedTuple):
    """Both heads, for training."""

    one_to_one: HeadOutput
    one_to_many: HeadOutput
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


class LevelHead(nn.Sequential):
    """Objectness and the reach to the four sides (FCOS, Tian et al. 2019) on one level."""

    def __init__(self, channels: int) -> None:
        predict = nn.Conv2d(channels, 5, 1)
        nn.init.normal_(predict.weight, std=0.01)
        # Polyps of real frames span several cells: begin with boxes of about 4 x 4.
        prior = math.log(PRIOR_OBJECTNESS / (1 - PRIOR_OBJECTNESS))
        predict.bias = nn.Parameter(torch.tensor([prior, 0.7, 0.7, 0.7, 0.7]))
        super().__init__(ConvUnit(channels, channels), ConvUnit(channels, channels), predict)


class Head(nn.Module):
    """A level head for each level.

    Sharing one would share its batch normalisation, whose running statistics then fit no level:
    training normalises each level by itself, inference all by the mixture.
    """

    def __init__(self, channels: int, *, num_levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelHead(channels) for _ in range(num_levels))

    def forward(self, maps: list[Tensor], cells_xy: Tensor, cell_sizes: Tensor) -> HeadOutput:
        """Map feature maps to proposals at all cells, fine levels first."""
        raw = torch.cat(
            [level(features).flatten(2) for level, features in zip(self.levels, maps, strict=True)],
            dim=2,
        ).float()
        reach = raw[:, 1:].clamp(max=LARGEST_REACH).exp().transpose(1, 2)
        low = cells_xy - reach[..., :2] * cell_sizes
        high = cells_xy + reach[..., 2:] * cell_sizes
        return HeadOutput(raw[:, 0], torch.cat([low, high], dim=2))


class SlotDetector(nn.Module):
    """TinyDet or BigDet, by its config. Build it with `build_model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(stem=config.stem, widths=config.widths, depths=config.depths)
        self.pyramid = FeaturePyramid(config.widths[-config.num_levels :], out_channels=config.neck)
        # One slot needs no fine map: TinyDet reads the stride-16 level, which has seen them all.
        self.num_read_levels = 1 if config.kind == "tiny" else config.num_levels
        self.one_to_one = Head(config.neck, num_levels=self.num_read_levels)
        self.one_to_many = Head(config.neck, num_levels=self.num_read_levels)

    def _features(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.pyramid(self.backbone(images)[-self.config.num_levels :])
        return levels[: self.num_read_levels]

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

    def dense(self, images: Tensor, *, one_to_one_share: float = 1.0) -> DenseOutput:
        """Map float images [B,3,H,W] in 0..1 to the proposals of both heads.

        `one_to_one_share` (0..1) is how much of the one-to-one head's gradient reaches the trunk:
        its few positives would fight the dense signal while the features are young.
        """
        maps = self._features(images)
        cells_xy, cell_sizes = self._cells(maps)
        shared = [
            one_to_one_share * features + (1 - one_to_one_share) * features.detach()
            for features in maps
        ]
        return DenseOutput(
            self.one_to_one(shared, cells_xy, cell_sizes),
            self.one_to_many(maps, cells_xy, cell_sizes),
            cells_xy,
            cell_sizes,
        )

    def forward(self, images: Tensor) -> SlotOutput:
        """Map float images [B,3,H,W] in 0..1 to the slots, best first."""
        maps = self._features(images)
        proposals: HeadOutput = self.one_to_one(maps, *self._cells(maps))
        logits, best = proposals.logits.topk(self.config.num_slots, dim=1)
        boxes = proposals.boxes_xyxy.gather(1, best[..., None].expand(-1, -1, 4))
        return SlotOutput(logits, boxes.clamp(0, 1))


def build_model(config: ModelConfig) -> SlotDetector:
    """Build an untrained detector; its weights come from PyTorch's current random state."""
    model = SlotDetector(config)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
