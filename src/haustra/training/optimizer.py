"""How weights move: Muon for kernels that begin at random, AdamW for all others; their average.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the steps of a weight
matrix orthogonal, so that directions with small gradients learn as fast as those with large ones.
In short trainings it learns several times faster than AdamW alone; long ones end alike. A backbone
with ImageNet weights learns by AdamW: it has less to learn, and directions that are worth keeping.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from haustra.models.detector import SlotDetector
from haustra.models.efficientnet import EfficientNetLite0
from haustra.training.config import TrainConfig
from haustra.training.recipe import AveragingSettings, OptimizerSettings

RunAll = Callable[[Callable[[nn.Parameter], None], list[nn.Parameter]], Iterable[None]]
"""Calls a function on each kernel, like `map`."""


def orthogonalize(matrix: Tensor, *, settings: OptimizerSettings) -> Tensor:
    """Return U V^T of the singular value decomposition U S V^T, roughly: S becomes 0.7 to 1.2.

    All iterations run on the small square matrix of the rows' products, since each multiplies by a
    polynomial of it: a third of the arithmetic for a 3x3 kernel. They run in float32. Rounded to
    bfloat16, that matrix has negative eigenvalues, which the iterations make huge.

    Args:
        matrix: Float32 [M,N].
    """
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = rows / rows.norm().clamp(min=1e-7)
    a, b, c = settings.muon_polynomial
    gram = rows @ rows.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    total = identity
    for iteration in range(1, settings.muon_iterations + 1):
        change = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        total = change if iteration == 1 else change @ total
        if iteration < settings.muon_iterations:
            gram = change @ gram @ change
    rows = total @ rows
    return rows if matrix.shape[0] <= matrix.shape[1] else rows.T  # type: ignore[no-any-return]


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices.

    `torch.optim.Muon` takes no convolutions. It also computes in bfloat16 where the CPU has no
    instructions for it, fifteen times slower than in float32.

    Args:
        groups: Kernels float32 [O,I,H,W], each seen as the matrix [O,I*H*W], and `weight_decay`.
    """

    def __init__(self, groups: list[dict[str, Any]], *, settings: OptimizerSettings) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self._settings = settings

    def step(self, run: RunAll = map) -> None:  # type: ignore[override]
        """Move the kernels by their gradients.

        Args:
            run: Calls a function on each kernel, in any threads; `map` does so in this one.
        """
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            for kernel in kernels:
                if not self.state[kernel]:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
            list(run(partial(self._move, group), kernels))

    @torch.no_grad()  # holds for the calling thread alone
    def _move(self, group: dict[str, Any], kernel: nn.Parameter) -> None:
        factor = self._settings.muon_momentum
        assert kernel.grad is not None  # noqa: S101 chosen by `step`
        momentum = self.state[kernel]["momentum"].mul_(factor).add_(kernel.grad)
        # Nesterov: look ahead by one more step of the momentum.
        ahead = kernel.grad.add(momentum, alpha=factor)
        # The order of columns does not matter: take them as they lie in memory.
        rows = ahead.permute(0, 2, 3, 1)
        matrix = rows.flatten(1)
        change = orthogonalize(matrix, settings=self._settings).reshape(rows.shape)
        size = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        kernel.mul_(1 - group["lr"] * group["weight_decay"])
        kernel.add_(change.permute(0, 3, 1, 2), alpha=-group["lr"] * size)


def select_part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `part` and a dot, by the rest of their names."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class DetectorOptimizer:
    """One optimizer for all trained weights of a detector.

    Only kernels decay: norms and biases have no reason to shrink.

    Args:
        model: The detector. Its weights that require a gradient are trained.
    """

    def __init__(
        self, model: SlotDetector, *, weight_decay: float, settings: OptimizerSettings
    ) -> None:
        self._settings = settings
        has_pretrained = isinstance(model.backbone, EfficientNetLite0)
        kernels: list[nn.Parameter] = []
        others: dict[float, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_pretrained = has_pretrained and name.startswith("backbone.")
            if self._is_matrix(parameter) and not is_pretrained:
                kernels.append(parameter)
            else:
                others[weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
        rate = settings.muon_rate
        adamw_groups = [
            {"params": group, "share": 1.0, "weight_decay": decay}
            for decay, group in others.items()
        ]
        muon_group = {"params": kernels, "share": rate, "weight_decay": weight_decay / rate}
        self._optimizers = (
            Muon([muon_group] if kernels else [], settings=settings),
            torch.optim.AdamW(
                adamw_groups, betas=settings.adamw_betas, eps=settings.adamw_epsilon, fused=True
            ),
        )

    def _is_matrix(self, parameter: nn.Parameter) -> bool:
        """Return whether Muon trains a weight that begins at random."""
        if self._settings.kernels != "muon" or parameter.ndim != 4:
            return False
        return min(parameter.shape[0], parameter[0].numel()) >= self._settings.muon_least_side

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of AdamW; Muon gets its multiple of it."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]

    def step(self, run: RunAll = map) -> None:
        """Move the weights by their gradients; `run` is that of `Muon.step`."""
        muon, adamw = self._optimizers
        muon.step(run)
        adamw.step()

    def _weights(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for number, optimizer in enumerate(self._optimizers):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            for index, weight in enumerate(weights):
                yield f"{number}.{index}", optimizer, weight

    def memory(self) -> dict[str, Tensor]:
        """Return what the optimizer remembers of earlier steps, by the names `remember` takes."""
        return {
            f"{part}.{name}": value
            for part, optimizer, weight in self._weights()
            for name, value in optimizer.state[weight].items()
        }

    @torch.no_grad()
    def remember(self, memory: dict[str, Tensor]) -> None:
        """Continue with the memory of another optimizer of the same model."""
        for part, optimizer, weight in self._weights():
            # Channels last, as beside the weight it came from: the same sums in the same order.
            optimizer.state[weight] = {
                name: torch.empty_like(weight).copy_(value)
                if value.shape == weight.shape
                else value.to(weight.device)
                for name, value in select_part(memory, part).items()
            }


class AveragedModel:
    """Keeps a copy of a model whose floating-point state is the original's moving average."""

    def __init__(self, model: SlotDetector, *, settings: AveragingSettings) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._settings = settings
        self.steps = 0  # number of steps that the average has followed

    @torch.no_grad()
    def update(self, model: SlotDetector) -> None:
        """Move the average towards the model, faster in early steps."""
        self.steps += 1
        ramp = (1 + self.steps) / (self._settings.warm_up_steps + self.steps)
        decay = min(self._settings.max_decay, ramp)
        averages, values = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in values.items() if value.is_floating_point()]
        starts, ends = [averages[name] for name in floating], [values[name] for name in floating]
        torch._foreach_lerp_(starts, ends, 1 - decay)
        for name in values.keys() - floating:
            averages[name].copy_(values[name])


def learning_rate(done: float, *, config: TrainConfig) -> float:
    """Return the rate at share `done` (0..1): a linear rise, then a fall to `lr_end`."""
    start, end = config.lr_start, config.lr_end
    warm_up_share = config.recipe.optimizer.warm_up_share
    if done < warm_up_share:
        return start * max(0.01, done / warm_up_share)
    fallen = min(1.0, (done - warm_up_share) / (1 - warm_up_share))
    if config.scheduler == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return start + (end - start) * fallen
