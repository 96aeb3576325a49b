"""The optimiser: Muon for kernels that begin at random, AdamW for all else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the steps of a weight
matrix orthogonal, so that directions with small gradients learn as fast as those with large ones.
In short trainings it learns several times faster than AdamW alone; long ones end alike. A backbone
with ImageNet weights has no need of that: it has less to learn, and its directions to lose.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from haustra.models.detector import SlotDetector
from haustra.models.efficientnet import EfficientNetLite0

MUON_RATE = 10.0
"""Muon's learning rate as a multiple of AdamW's: its steps have a size of their own."""
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: the steepest at zero, not the most exact (Jordan et al.)."""
NUM_ITERATIONS = 5
LEAST_SIDE = 16
"""A kernel with fewer rows or columns is no matrix worth making orthogonal: the predictions."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition U S V^T, roughly: S becomes 0.7 to 1.2.

    All iterations are done on the small square matrix of the rows' products, since each multiplies
    by a polynomial of it: a third of the arithmetic for a 3x3 kernel. In float32 only: rounded to
    bfloat16 that matrix has negative eigenvalues, which the iteration makes huge.

    Args:
        matrix: float32 [M,N].
    """
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = rows / rows.norm().clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    gram = rows @ rows.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    total = identity
    for _ in range(NUM_ITERATIONS):
        change = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        total = change @ total
        gram = change @ gram @ change
    rows = total @ rows
    return rows if matrix.shape[0] <= matrix.shape[1] else rows.T  # type: ignore[no-any-return]


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices.

    In place of `torch.optim.Muon`, which takes no convolutions, and computes in bfloat16 also where
    the CPU has no instructions for it: there it is fifteen times slower than float32.

    Args of the constructor:
        groups: of kernels float32 [O,I,H,W], each seen as the matrix [O,I*H*W]; with
            `weight_decay`.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move the kernels by their gradients."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].mul_(MOMENTUM).add_(kernel.grad)
                # Nesterov: look ahead by one more step of the momentum.
                ahead = kernel.grad.add(momentum, alpha=MOMENTUM)
                # The order of columns does not matter: take them as they lie in memory.
                rows = ahead.permute(0, 2, 3, 1)
                matrix = rows.flatten(1)
                change = orthogonalise(matrix).reshape(rows.shape)
                size = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(change.permute(0, 3, 1, 2), alpha=-group["lr"] * size)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE


class DetectorOptimiser:
    """One optimiser for all trained weights of a detector.

    Only kernels decay: norms and biases have no reason to shrink.

    Args of the constructor:
        model: its weights that require a gradient are trained.
        weight_decay: of kernels.
    """

    def __init__(self, model: SlotDetector, *, weight_decay: float) -> None:
        kernels: list[nn.Parameter] = []
        others: dict[float, list[nn.Parameter]] = defaultdict(list)
        has_pretrained = isinstance(model.backbone, EfficientNetLite0)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_pretrained = has_pretrained and name.startswith("backbone.")
            if _is_matrix(parameter) and not is_pretrained:
                kernels.append(parameter)
            else:
                others[weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
        self._optimisers = (
            Muon(
                [
                    {
                        "params": kernels,
                        "share": MUON_RATE,
                        "weight_decay": weight_decay / MUON_RATE,
                    }
                ]
            ),
            torch.optim.AdamW(
                [
                    {"params": group, "share": 1.0, "weight_decay": decay}
                    for decay, group in others.items()
                ],
                fused=True,
            ),
        )

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; each group gets its share of it."""
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the weights by their gradients."""
        for optimiser in self._optimisers:
            optimiser.step()

    def _weights(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for number, optimiser in enumerate(self._optimisers):
            weights = [weight for group in optimiser.param_groups for weight in group["params"]]
            for index, weight in enumerate(weights):
                yield f"{number}.{index}.", optimiser, weight

    def memory(self) -> dict[str, Tensor]:
        """Return what it remembers of the steps before, by names that `remember` takes."""
        return {
            prefix + name: value
            for prefix, optimiser, weight in self._weights()
            for name, value in optimiser.state[weight].items()
        }

    @torch.no_grad()
    def remember(self, memory: dict[str, Tensor]) -> None:
        """Continue with the memory of another optimiser of the same model."""
        for prefix, optimiser, weight in self._weights():
            values = {
                name.removeprefix(prefix): value
                for name, value in memory.items()
                if name.startswith(prefix)
            }
            # As it lay beside the weight, channels last: the same sums in the same order.
            optimiser.state[weight] = {
                name: torch.empty_like(weight).copy_(value)
                if value.shape == weight.shape
                else value.to(weight.device)
                for name, value in values.items()
            }
