"""The backbone that both detectors share: plain 3x3 residual blocks and a feature pyramid.

Dense 3x3 convolutions in `channels_last` bfloat16 train about three times faster on a CPU than
depthwise ones of similar accuracy, so the backbone has nothing else.

Shapes: B batch, C channels, H and W of the image or of a feature map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM_KERNEL, STEM_STRIDE = 7, 4
"""One wide step to stride 4: at full resolution three channels do not keep a CPU busy and only move
memory."""


class ConvUnit(nn.Sequential):
    """Convolution, batch normalization and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1
    ) -> None:
        padding = kernel // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, basic block).

    Args:
        expansion: Channels between the two convolutions, as a share of `channels`.
    """

    def __init__(self, channels: int, *, expansion: float) -> None:
        super().__init__()
        between = round(channels * expansion)
        self.first = ConvUnit(channels, between)
        self.second = nn.Conv2d(between, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B,C,H,W] to the same shape."""
        return functional.relu(features + self.norm(self.second(self.first(features))))


class Backbone(nn.Module):
    """A stem of stride 4, then one stage per width; the stages after the first halve the size.

    Args:
        widths: Channels of the stages, at strides 4, 8, 16, ...
        depths: Residual blocks of the stages.
    """

    def __init__(
        self, *, widths: tuple[int, ...], depths: tuple[int, ...], expansion: float = 1.0
    ) -> None:
        super().__init__()
        self.stem = ConvUnit(3, widths[0], kernel=STEM_KERNEL, stride=STEM_STRIDE)
        self.stages = nn.ModuleList()
        for before, after, depth in zip((None, *widths), widths, depths, strict=False):
            halve = [] if before is None else [ConvUnit(before, after, stride=2)]
            blocks = (ResidualBlock(after, expansion=expansion) for _ in range(depth))
            self.stages.append(nn.Sequential(*halve, *blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map float images [B,3,H,W] in 0..1 to one feature map per stage."""
        features = self.stem(images)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class FeaturePyramid(nn.Module):
    """Top-down pyramid (Lin et al. 2017): each level gets the upsampled sum of those above it.

    Args:
        in_channels: Channels of the feature maps, fine to coarse.
        out_channels: Channels of the levels.
        num_levels: Number of levels to return, the finest ones.
    """

    def __init__(self, in_channels: tuple[int, ...], *, out_channels: int, num_levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.smooth = nn.ModuleList(ConvUnit(out_channels, out_channels) for _ in range(num_levels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map feature maps, fine to coarse, to the levels."""
        merged = [lateral(features) for lateral, features in zip(self.lateral, maps, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            above = functional.interpolate(merged[level + 1], scale_factor=2.0, mode="nearest")
            merged[level] = merged[level] + above
        return [smooth(features) for smooth, features in zip(self.smooth, merged, strict=False)]


def count_parameters(module: nn.Module) -> int:
    """Return the number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def images_to_input(images: Tensor) -> Tensor:
    """Turn uint8 [B,H,W,3] into float32 [B,3,H,W] in 0..1, laid out `channels_last`.

    Training, evaluation and inference all use it.
    """
    planes = images.permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.channels_last).div(255.0)
