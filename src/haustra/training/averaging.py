"""The exponential moving average of a model's weights, which is validated and saved."""

import copy

import torch

from haustra.models.detector import SlotDetector
from haustra.training.recipe import AveragingSettings


class AveragedModel:
    """Keeps a copy of a model whose floating-point state is the original's moving average."""

    def __init__(self, model: SlotDetector, *, settings: AveragingSettings) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._settings = settings
        self.steps = 0
        """Number of steps that the average has followed."""

    @torch.no_grad()
    def update(self, model: SlotDetector) -> None:
        """Move the average towards the model, faster in early steps."""
        self.steps += 1
        ramp = (1 + self.steps) / (self._settings.warm_up_steps + self.steps)
        decay = min(self._settings.max_decay, ramp)
        averages, values = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating],
            [values[name] for name in floating],
            1 - decay,
        )
        for name, value in values.items():
            if not value.is_floating_point():
                averages[name].copy_(value)
