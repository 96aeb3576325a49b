"""Learners compute the loss of a batch with its gradients: by PyTorch, or by tinygrad on WebGPU."""

import textwrap
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from haustra.backends.choose import Backend
from haustra.core.errors import HaustraError, option
from haustra.models.backbone import images_to_input
from haustra.models.detector import DenseOutput, SlotDetector
from haustra.models.losses import DetectionLoss, DeviceBatch
from haustra.models.refiner import SecondLook
from haustra.training.config import TrainConfig
from haustra.training.memory import is_out_of_memory

COARSEST_STRIDE = 32
Terms = dict[str, torch.Tensor]
"""Loss terms by name; calling `backward` on "loss" gives the gradients of the model's weights."""


class Learner(Protocol):
    """Computes the loss of a model in training mode; the running statistics move with it."""

    @property
    def compiles_each_size(self) -> bool:
        """True where a new image size costs a compilation."""

    def loss_terms(self, batch: DeviceBatch) -> Terms:
        """Return the loss of a batch and its terms."""


def has_one_value_per_channel(images: torch.Tensor) -> bool:
    """Return whether the coarsest maps of images [B,3,H,W] have a single value in each channel.

    One value has no variance: such a batch is normalized by the running statistics.
    """
    batch, _, height, width = images.shape
    return batch * -(-height // COARSEST_STRIDE) * -(-width // COARSEST_STRIDE) == 1


class TorchLearner:
    """The learner of the backends cpu, cuda and mps."""

    def __init__(
        self, model: SlotDetector, *, loss: DetectionLoss, is_bfloat16: bool, is_compiled: bool
    ) -> None:
        self._model, self._loss, self._is_bfloat16 = model, loss, is_bfloat16
        self.compiles_each_size = is_compiled
        self._norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
        self._dense: Callable[..., DenseOutput] = model.dense
        if is_compiled:
            self._dense = torch.compile(model.dense, dynamic=False)

    def _compute_dense(self, images: torch.Tensor) -> DenseOutput:
        """Compute the proposals of all cells."""
        if not self.compiles_each_size:
            return self._dense(images)
        from torch._dynamo.exc import ShortenTraceback

        try:
            return self._dense(images)
        except ShortenTraceback as error:  # of torch.compile's backend: no compiler, no Triton
            if is_out_of_memory(error):
                raise
            reason = textwrap.shorten(str(error).strip().splitlines()[0], 200)
            raise HaustraError(
                f"torch.compile fails here ({reason}); install a C++ compiler such as g++, and "
                f"for cuda Triton, or use {option('compile', 'off')}"
            ) from None

    def loss_terms(self, batch: DeviceBatch) -> Terms:
        """Return the loss of a batch and its terms."""
        device = batch.images.device.type
        images = images_to_input(batch.images)
        norms = self._norms if has_one_value_per_channel(images) else ()
        for norm in norms:
            norm.eval()
        try:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self._is_bfloat16):
                output = self._compute_dense(images)
        finally:
            for norm in norms:
                norm.train()
        refiner = self._model.refiner

        def look(boxes_xyxy: torch.Tensor) -> SecondLook:
            assert refiner is not None  # noqa: S101 only then it is called
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self._is_bfloat16):
                look: SecondLook = refiner(output.features, boxes_xyxy)
            return look

        return self._loss.terms(
            output,
            self._model.candidates(output) if self._model.exclusion is not None else None,
            boxes_xyxy=batch.boxes_xyxy,
            mask=batch.mask,
            every_cell=device != "cpu",
            look=look if refiner is not None else None,
        )


def build_learner(
    model: SlotDetector, *, config: TrainConfig, backend: Backend, is_compiled: bool
) -> Learner:
    """Return the learner of a backend for a model on its device."""
    recipe = config.recipe
    weight = config.iou_weight
    loss = DetectionLoss(matching=recipe.matching, settings=recipe.loss, iou_weight=weight)
    if backend.name == "wgpu":
        from haustra.webgpu.learner import WgpuLearner

        return WgpuLearner(model, loss=loss)
    is_bfloat16 = config.precision == "bfloat16"
    return TorchLearner(model, loss=loss, is_bfloat16=is_bfloat16, is_compiled=is_compiled)
