"""`Recipe`: everything that decides what a training learns and that has no flag of its own.

The flags of `haustra train` set the learning rate, its schedule, the weight decay and the weight of
the IoU term. A recipe sets the rest. Its JSON form is stored with each training, and a file that
holds some of it changes these values and keeps the others:

    {"augmentation": {"full": {"mosaic": 0.0}}, "averaging": {"max_decay": 0.99}}

Does not import torch.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from haustra.core.checked import (
    CheckedSettings,
    Count,
    CountFromOne,
    Finite,
    NonNegative,
    Positive,
    Share,
    ShareAboveZero,
    change_settings,
)
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.paths import StrPath, to_path
from haustra.models.loss_settings import LossSettings, MatchingSettings


@dataclass(frozen=True, kw_only=True)
class AugmentStrength(CheckedSettings):
    """How much, and how often, a training image is changed. Chances are 0..1."""

    scale: tuple[Positive, Positive] = (0.6, 1.5)
    """Smallest and largest zoom of a single frame."""
    stretch: NonNegative = 0.1
    """Largest relative change of the aspect ratio."""
    shift: Share = 0.15
    """Largest shift, as a share of the image's side."""
    turn: Share = 0.5
    """Chance of a rotation by any angle, on top of flips and quarter turns."""
    turn_deg: NonNegative = 30.0
    """Largest such angle in degrees."""
    gain: Share = 0.4
    """Largest relative change of brightness, contrast and saturation."""
    channel_gain: Share = 0.15
    """Largest relative change of one color channel: white balance differs between scopes."""
    gamma: NonNegative = 0.45
    """Largest change of the logarithm of gamma."""
    mosaic: Share = 0.3
    """Chance that four frames share the image (Bochkovskiy et al. 2020, YOLOv4)."""
    mosaic_scale: tuple[Positive, Positive] = (0.5, 0.8)
    """Smallest and largest zoom of a mosaic's frames."""
    paste: Share = 0.5
    """Chance that another frame's polyp is blended into a single frame."""
    paste_side: tuple[Share, Share] = (0.08, 0.4)
    """Smallest and largest longer side of a pasted polyp, as a share of the image's."""
    blur: Share = 0.2
    """Chance of defocus or motion blur."""
    noise: Share = 0.2
    """Chance of sensor noise."""
    compression: Share = 0.1
    """Chance of JPEG compression."""
    speculars: Share = 0.2
    """Chance of added specular reflections."""
    text: Share = 0.1
    """Chance of on-screen text or an inset."""
    min_box_share: Share = 0.3
    """A box is dropped if less than this share of its area stays in the image."""
    min_box_side_px: NonNegative = 3.0
    """A box is dropped if one of its sides becomes shorter than this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "mosaic_scale", "paste_side"):
            low, high = getattr(self, name)
            if low > high:
                raise HaustraError(f"{name}={(low, high)}: expected the smaller number first")


EASY = AugmentStrength(gain=0.2, channel_gain=0.08, gamma=0.2, paste=0.3, blur=0.15, noise=0.15)
"""For the first epochs: full geometry, and less of what makes frames hard to read."""
FULL = AugmentStrength()  # for the epochs in between
LIGHT = AugmentStrength(
    scale=(0.8, 1.25),
    stretch=0.0,
    shift=0.1,
    turn=0.0,
    gain=0.2,
    channel_gain=0.08,
    gamma=0.2,
    mosaic=0.0,
    paste=0.0,
    blur=0.1,
    noise=0.1,
    compression=0.05,
    speculars=0.1,
    text=0.05,
)
"""For the last epochs: the geometry of real frames, and the colors of more than one scope."""


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings(CheckedSettings):
    """How augmentation develops over a training. `TrainConfig.augment` turns it off."""

    easy: AugmentStrength = EASY
    """Strength in the first epoch."""
    full: AugmentStrength = FULL
    """Strength from `easy_epochs` on."""
    light: AugmentStrength = LIGHT
    """Strength in the last `light_share` of the training."""
    easy_epochs: CountFromOne = 50
    """Epochs over which the strength grows from `easy` to `full`. A frame teaches as it is when it
    is seen for the first time."""
    light_share: Share = 0.3
    """Share of the training that ends with `light` (YOLOX and YOLO26 end likewise). Half of it
    costs 0.01 of AP50 and of AP50-95 after 27 minutes (dev/lab_log.md)."""


@dataclass(frozen=True, kw_only=True)
class GrowthSettings(CheckedSettings):
    """How images grow during a training, as in EfficientNetV2 (Tan and Le 2021)."""

    first_resolution: ShareAboveZero = 0.5
    """Side of the first images, as a share of the stored side; 1 for images that do not grow."""
    share: ShareAboveZero = 0.6
    """Share of the training after which images have their stored size."""
    side_step_px: CountFromOne = 64
    """Sides are multiples of this. With 64 the sides of all maps down to stride 16 are multiples of
    4, for which CPU convolutions are blocked: with AVX2 a step at 160x160 takes nine tenths of the
    time of one at 192x192 (dev/lab_log.md)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(CheckedSettings):
    """How the weights move along their gradients."""

    kernels: Literal["muon", "adamw"] = "muon"
    """Optimizer of convolution kernels that begin at random. All other weights learn by AdamW."""
    muon_rate: Positive = 10.0
    """Learning rate of Muon as a multiple of AdamW's."""
    muon_momentum: Share = 0.95
    """Momentum of Muon (Jordan et al. 2024)."""
    muon_iterations: CountFromOne = 5
    """Newton-Schulz iterations of each Muon step (Jordan et al. 2024)."""
    muon_polynomial: tuple[Finite, Finite, Finite] = (3.4445, -4.7750, 2.0315)
    """Coefficients of an iteration: the steepest at zero, not the most exact (Jordan et al.)."""
    muon_least_side: CountFromOne = 16
    """A kernel with fewer rows or columns, such as those of the predictions, learns by AdamW."""
    adamw_betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of AdamW's averages of gradients and of squared gradients (PyTorch's defaults)."""
    adamw_epsilon: Positive = 1e-8
    """Addend of AdamW's denominator (PyTorch's default)."""
    max_gradient_norm: Positive = 10.0
    """Longer gradients of all weights together are scaled down to this norm."""
    warm_up_share: Annotated[Finite, Field(ge=0, le=0.9)] = 0.03
    """Share of the training in which the learning rate rises from near zero."""


@dataclass(frozen=True, kw_only=True)
class AveragingSettings(CheckedSettings):
    """The exponential moving average of the weights, which is validated and saved."""

    max_decay: Share = 0.998
    """Largest decay per step; 0 keeps the weights of the last step."""
    warm_up_steps: Count = 10
    """The decay of step n is at most (1 + n) / (warm_up_steps + n), so that early weights, which
    are still poor, are forgotten fast."""


@dataclass(frozen=True, kw_only=True)
class Recipe(CheckedSettings):
    """How detectors learn, apart from the settings that have flags."""

    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    """Strengths of the augmentation."""
    growth: GrowthSettings = field(default_factory=GrowthSettings)
    """Growth of the images."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Muon, AdamW, gradient clipping and warm-up."""
    averaging: AveragingSettings = field(default_factory=AveragingSettings)
    """Moving average of the weights."""
    matching: MatchingSettings = field(default_factory=MatchingSettings)
    """Matching of cells and labeled boxes."""
    loss: LossSettings = field(default_factory=LossSettings)
    """Terms of the loss."""


def parse_recipe(value: object, *, name: str) -> Recipe:
    """Build a recipe from a JSON value; what it leaves out has its default."""
    return change_settings(Recipe(), value, where=f"{name}: ")


def read_recipe(path: StrPath) -> Recipe:
    """Read a JSON file of recipe settings; what it leaves out has its default.

    Raises:
        HaustraError: The file cannot be read, or has an unknown setting or a bad value.
    """
    value = read_json(to_path(path), what="a JSON file of recipe settings")
    return parse_recipe(value, name=str(path))
