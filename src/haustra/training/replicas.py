"""Data-parallel training on one machine: copies of a model that share its weights.

OpenMP splits each operation over the cores and lets them wait for one another after it, a few
thousand times a step. On a machine where something else runs too, most of the time is then spent
waiting for a thread that has lost its core. Replicas meet once a step: each computes its share of
the batch in a thread of its own.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from haustra.models.detector import SlotDetector
from haustra.models.losses import DeviceBatch
from haustra.training.config import TrainConfig
from haustra.training.learner import Learner

LEAST_SHARE = 4
"""Images that a replica gets at least by default: batch normalization needs a few."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def default_replicas(batch_size: int) -> int:
    """Return the number of replicas for this machine's cores, or for OMP_NUM_THREADS of them."""
    return max(1, min(torch.get_num_threads(), batch_size // LEAST_SHARE))


@contextmanager
def one_thread_each(config: TrainConfig) -> Iterator[None]:
    """Let PyTorch compute each operation in the thread that calls it, where replicas train."""
    before = torch.get_num_threads()
    if config.backend == "cpu" and config.compile != "on":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Replicas:
    """A model and its copies: one weight, one gradient and one running statistic for the outside.

    The same number of replicas gives the same bytes, whatever the number of cores. Batch
    normalization takes the statistics of a replica's own share; the running statistics are the
    mean over the replicas.

    Args:
        model: The model that is trained, with weights on their device. It is the first replica.
        build_learner: Returns the learner of a model.
        batch_size: Images in a batch, split into `count` shares.
    """

    def __init__(
        self,
        model: SlotDetector,
        *,
        build_learner: Callable[[SlotDetector], Learner],
        count: int,
        batch_size: int,
    ) -> None:
        self._models = [model, *(_copy_sharing_weights(model) for _ in range(1, count))]
        self._learners = [build_learner(each) for each in self._models]
        self._share_size = -(-batch_size // count)
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            self._pool = ThreadPoolExecutor(count, "replica", torch.set_num_threads, (1,))
        self._num_used = 1  # replicas that have computed since the last `collect`

    @property
    def compiles_each_size(self) -> bool:
        """True where a new image size costs a compilation."""
        return self._learners[0].compiles_each_size

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return `function(item)` for each item, computed in the replicas' threads.

        The first error is raised when all items are done: none still writes then.
        """
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    def split(self, num_samples: int) -> list[slice]:
        """Return the rows of each share of a batch."""
        return [slice(at, at + self._share_size) for at in range(0, num_samples, self._share_size)]

    def backward(self, batch: DeviceBatch, *, weight: float = 1.0) -> dict[str, float]:
        """Compute the loss of a batch, and add its gradient to the replicas'.

        Args:
            batch: At most the batch size.
            weight: Factor of the gradient.

        Returns:
            The loss and its terms, the mean over the images' shares. If the loss is not finite,
            neither is the gradient.
        """
        shares = self.split(len(batch.images))

        def backward(number: int) -> dict[str, float]:
            own = DeviceBatch(*(tensor[shares[number]] for tensor in batch))
            portion = len(own.images) / len(batch.images)
            terms = self._learners[number].loss_terms(own)
            (terms["loss"] * (weight * portion)).backward()  # type: ignore[no-untyped-call]
            return {name: float(value.detach()) * portion for name, value in terms.items()}

        self._num_used = max(self._num_used, len(shares))
        sums: dict[str, float] = {}
        for terms in self.map(backward, range(len(shares))):
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    @torch.no_grad()
    def collect(self) -> None:
        """Move the replicas' gradients and running statistics into the model's, in fixed order."""
        model, others = self._models[0], self._models[1 : self._num_used]
        weights = list(model.parameters())
        for other in others:
            pairs = [
                (own.grad, parameter.grad)
                for own, parameter in zip(weights, other.parameters(), strict=True)
                if own.grad is not None and parameter.grad is not None
            ]
            torch._foreach_add_([own for own, _ in pairs], [grad for _, grad in pairs])
            other.zero_grad()
        statistics = _statistics(model)
        for number, other in enumerate(others, 2):
            torch._foreach_lerp_(statistics, _statistics(other), 1 / number)
        self._num_used = 1
        self.send_statistics()

    @torch.no_grad()
    def send_statistics(self) -> None:
        """Give the model's running statistics to all replicas."""
        for other in self._models[1:]:
            torch._foreach_copy_(_statistics(other), _statistics(self._models[0]))

    def zero_grad(self) -> None:
        """Remove the gradients of all replicas."""
        for model in self._models:
            model.zero_grad()


def _copy_sharing_weights(model: SlotDetector) -> SlotDetector:
    """Return a copy whose weights are the model's own memory; gradients and statistics are not."""
    copied = copy.deepcopy(model)
    for own, weight in zip(model.parameters(), copied.parameters(), strict=True):
        weight.data = own.data
    return copied


def _statistics(model: nn.Module) -> list[Tensor]:
    return [value for value in model.buffers() if value.is_floating_point()]
