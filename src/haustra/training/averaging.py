"""The exponential moving average of a model's weights: what is validated and saved."""

import copy

import torch

from haustra.models.detector import SlotDetector

MAX_DECAY = 0.998


class AveragedModel:
    """Keeps a copy of a model whose floating-point state follows the original's average."""

    def __init__(self, model: SlotDetector) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = 0
        """Steps that were followed."""

    @torch.no_grad()
    def update(self, model: SlotDetector) -> None:
        """Move the average towards the model; early steps count more, as they are the only ones."""
        self.steps += 1
        decay = min(MAX_DECAY, (1 + self.steps) / (10 + self.steps))
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
