"""Detectors of checkpoint format version 1, as they answered then.

They had selectors in place of the exclusion: small networks per level, which saw the features under
a head and the objectness of all levels, and raised one cell per polyp. dev/lab_log.md tells why
they went. Nothing trains them any more.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from haustra.models.backbone import ConvUnit
from haustra.models.detector import LevelHead, ModelConfig, SlotDetector, SlotOutput

SELECTOR_CHANNELS = 48
OBJECTNESS_SHARE = 0.05
"""Of the objectness in a slot's logit."""


class LevelSelector(nn.Module):
    """Which one cell speaks for a polyp: sees a level's features and all levels' objectness."""

    def __init__(self, channels: int, *, num_levels: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(
            ConvUnit(channels + num_levels, SELECTOR_CHANNELS),
            ConvUnit(SELECTOR_CHANNELS, SELECTOR_CHANNELS),
        )
        self.predict = nn.Conv2d(SELECTOR_CHANNELS, 1, 1)

    def forward(self, features: Tensor, objectness: list[Tensor]) -> Tensor:
        """Map [B,C,H,W] and the levels' objectness [B,1,*,*] to logits [B,1,H,W]."""
        size = features.shape[2:]
        seen = [_resize_objectness(level, size) for level in objectness]
        logits: Tensor = self.predict(self.compare(torch.cat([features, *seen], dim=1)))
        return logits


def _resize_objectness(objectness: Tensor, size: torch.Size) -> Tensor:
    """Bring a level's objectness to the size of another: the best of what falls together."""
    if objectness.shape[2] > size[0]:
        return functional.max_pool2d(objectness, objectness.shape[2] // size[0])
    if objectness.shape[2] < size[0]:
        return functional.interpolate(objectness, scale_factor=size[0] / objectness.shape[2])
    return objectness


class SlotDetectorOfVersion1(SlotDetector):
    """A detector whose slots are the cells that its selectors score best."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.exclusion = None
        self.selectors = nn.ModuleList(
            LevelSelector(head.predict.in_channels, num_levels=self.num_read_levels)
            for head in self._level_heads()
        )

    def _level_heads(self) -> list[LevelHead]:
        return [head for head in self.heads if isinstance(head, LevelHead)]

    def forward(self, images: Tensor) -> SlotOutput:
        """Map float images [B,3,H,W] in 0..1 to the slots, best first."""
        maps = self._features(images)
        heads = self._level_heads()
        towers = [head.tower(level) for head, level in zip(heads, maps, strict=True)]
        raw = [head.predict(tower) for head, tower in zip(heads, towers, strict=True)]
        objectness = [prediction[:, :1] for prediction in raw]
        selected = [
            selector(tower, objectness).flatten(1)
            for selector, tower in zip(self.selectors, towers, strict=True)
        ]
        proposals = self._proposals(maps, raw)
        ranked = torch.lerp(
            torch.cat(selected, dim=1).float(), proposals.objectness_logits, OBJECTNESS_SHARE
        )
        logits, cells = ranked.topk(self.config.num_slots, dim=1)
        return self._slots(logits, cells, proposals)
