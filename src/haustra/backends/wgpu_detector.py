"""A detector on WebGPU: its predictions, and its loss with gradients.

The graph is the PyTorch module's own, run by `haustra.backends.aten`. What is no arithmetic on
images stays in PyTorch on the CPU, on a few numbers per cell: matching, and choosing the slots.
Weights live in the PyTorch module, and are copied to the card before they are used: the optimiser,
the moving average and the checkpoint are those of every backend.

Shapes: B batch, N cells, H and W of the image.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tinygrad import Tensor as GpuTensor
from tinygrad import TinyJit
from tinygrad.device import Buffer
from torch import Tensor, nn

from haustra.backends.aten import Program
from haustra.backends.webgpu import DEVICE, open_device
from haustra.models.backbone import images_to_input
from haustra.models.detector import DenseOutput, SlotDetector
from haustra.models.loss_settings import LossSettings, MatchingSettings
from haustra.models.losses import (
    CellTargets,
    assign_slots,
    assign_targets,
    loss_from_targets,
    slot_loss,
)

PREFIX = "detector."
NUM_PREDICTIONS = 2
"""Outputs of `dense` that depend on the image; the others are the places of the cells."""
TERM_NAMES = ("objectness", "l1", "iou")


class _Predicting(nn.Module):
    def __init__(self, detector: SlotDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> DenseOutput:
        return self.detector.dense(images_to_input(images))


class _Loss(nn.Module):
    def __init__(self, settings: LossSettings, *, iou_weight: float) -> None:
        super().__init__()
        self._settings, self._iou_weight = settings, iou_weight

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        predictions, targets = tensors[:NUM_PREDICTIONS], tensors[NUM_PREDICTIONS:]
        # The places of the cells matter to the matching only.
        logits, boxes = predictions
        terms = loss_from_targets(
            DenseOutput(logits, boxes, cells_xy=boxes, cell_sizes=boxes),
            CellTargets(*targets),
            settings=self._settings,
            iou_weight=self._iou_weight,
            every_cell=True,
        )
        return [terms[name] for name in TERM_NAMES]


def _upload(values: NDArray[Any] | Tensor) -> GpuTensor:
    array = values.detach().numpy() if isinstance(values, Tensor) else values
    return GpuTensor(np.ascontiguousarray(array), device=DEVICE).realize()


class _DeviceWeights:
    """Floating-point weights and statistics of a module, on the card."""

    def __init__(self, names: list[str], model: nn.Module) -> None:
        state = model.state_dict()
        self.names = [name for name in names if state[name].is_floating_point()]
        self.tensors = [_upload(state[name]) for name in self.names]

    def load(self, model: nn.Module) -> None:
        """Copy what the module holds now; the buffers on the card stay where they are."""
        state = model.state_dict()
        for name, tensor in zip(self.names, self.tensors, strict=True):
            array = np.ascontiguousarray(state[name].detach().numpy())
            buffer = tensor.uop.base.realized
            buffer.copy_from(
                Buffer("PYTHON", buffer.size, buffer.dtype, opaque=array.data.cast("B"))
            )

    def by_name(self, tensors: list[GpuTensor]) -> dict[str, GpuTensor]:
        """Name the tensors that a compiled function was given for `tensors`."""
        return dict(zip(self.names, tensors, strict=True))


class WgpuPredictor:
    """Predicts the slots of images with a model's weights as they are at `load`.

    Args of the constructor:
        model: on the CPU; put into evaluation mode.
    """

    def __init__(self, model: SlotDetector) -> None:
        open_device()
        self._model = model.eval()
        self._weights: _DeviceWeights | None = None
        self._run: dict[tuple[int, ...], tuple[Callable[..., list[GpuTensor]], list[Tensor]]] = {}

    def load(self) -> None:
        """Take the model's weights of now."""
        if self._weights is not None:
            self._weights.load(self._model)

    def _compile(self, shape: tuple[int, ...]) -> None:
        program = Program(
            _Predicting(self._model), (torch.zeros(shape, dtype=torch.uint8),), prefix=PREFIX
        )
        if self._weights is None:
            self._weights = _DeviceWeights(program.state_names, self._model)
        weights = self._weights

        def run(images: GpuTensor, tensors: list[GpuTensor]) -> list[GpuTensor]:
            outputs, _ = program(weights.by_name(tensors), images)
            return [output.contiguous().realize() for output in outputs[:NUM_PREDICTIONS]]

        self._run[shape] = (TinyJit(run), program.constant_outputs)

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map images uint8 [B,H,W,3] to boxes [B,S,4] in 0..1 and scores [B,S]."""
        # A smaller batch, as the last one of a split, is filled up: compiling takes longer.
        fitting = [s for s in self._run if s[0] >= len(images) and s[1:] == images.shape[1:]]
        shape = min(fitting, default=images.shape)
        if shape not in self._run:
            self._compile(shape)
        run, places = self._run[shape]
        filled = np.zeros(shape, dtype=np.uint8)
        filled[: len(images)] = images
        assert self._weights is not None  # noqa: S101 compiled
        found = run(_upload(filled), self._weights.tensors)
        predictions = [torch.from_numpy(tensor.numpy()[: len(images)]) for tensor in found]
        with torch.inference_mode():
            output = self._model.select(DenseOutput(*predictions, *places))
        boxes: NDArray[np.float32] = output.boxes_xyxy.numpy()
        scores: NDArray[np.float32] = output.logits.sigmoid().numpy()
        return boxes, scores


@dataclass(frozen=True, kw_only=True)
class _CompiledStep:
    """What one size of batch needs."""

    predict: Callable[..., list[GpuTensor]]
    learn: Callable[..., list[GpuTensor]]
    places: list[Tensor]
    statistics: list[str]
    counters: list[str]


class _GivenGradients(torch.autograd.Function):
    """A loss whose gradients are already known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        return (None, None, *(gradient * factor for gradient in ctx.gradients))


class WgpuLearner:
    """The loss of a model in training mode, computed on WebGPU with its gradients.

    Args of the constructor:
        model: on the CPU, float32.
        matching: Settings of the matching.
        settings: Settings of the loss.
        iou_weight: Weight of the IoU term.
    """

    def __init__(
        self,
        model: SlotDetector,
        *,
        matching: MatchingSettings,
        settings: LossSettings,
        iou_weight: float,
    ) -> None:
        open_device()
        self._model, self._matching = model, matching
        self._settings, self._iou_weight = settings, iou_weight
        self._steps: dict[tuple[int, ...], _CompiledStep] = {}
        self._weights: _DeviceWeights | None = None
        self._trained: list[str] = []

    def _compile(self, shape: tuple[int, ...]) -> _CompiledStep:
        program = Program(
            _Predicting(self._model), (torch.zeros(shape, dtype=torch.uint8),), prefix=PREFIX
        )
        if self._weights is None:
            self._weights = _DeviceWeights(program.state_names, self._model)
            self._trained = [
                name
                for name, weight in self._model.named_parameters()
                if weight.requires_grad and name in self._weights.names
            ]
        weights, trained = self._weights, self._trained
        places = program.constant_outputs
        logits = torch.zeros(shape[0], len(places[0]))
        boxes = torch.zeros(*logits.shape, 4)
        loss_program = Program(
            _Loss(self._settings, iou_weight=self._iou_weight),
            (logits, boxes, logits, logits.bool(), boxes),
        )

        def predict(images: GpuTensor, tensors: list[GpuTensor]) -> list[GpuTensor]:
            outputs, _ = program(weights.by_name(tensors), images)
            return [output.contiguous().realize() for output in outputs[:NUM_PREDICTIONS]]

        def learn(
            images: GpuTensor,
            targets: list[GpuTensor],
            tensors: list[GpuTensor],
        ) -> list[GpuTensor]:
            states = weights.by_name(tensors)
            outputs, moved = program(states, images)
            terms, _ = loss_program({}, *outputs[:NUM_PREDICTIONS], *targets)
            loss = functools.reduce(operator.add, terms)
            gradients = loss.gradient(*(states[name] for name in trained))
            results = [
                GpuTensor.stack(*terms),
                *(moved[name] for name in program.statistics),
                *gradients,
            ]
            contiguous = [result.contiguous() for result in results]
            GpuTensor.realize(*contiguous)
            return contiguous

        return _CompiledStep(
            predict=TinyJit(predict),
            learn=TinyJit(learn),
            places=places,
            statistics=program.statistics,
            counters=program.counters,
        )

    def loss_terms(
        self,
        images: NDArray[np.uint8],
        *,
        boxes_xyxy: Tensor,
        mask: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss and its terms, as `detection_loss`; the running statistics move.

        Args:
            images: uint8 [B,H,W,3].
            boxes_xyxy: [B,M,4] ground truth, normalised to the image.
            mask: [B,M] bool, which rows of it are boxes.

        Returns:
            Scalars by name; `backward` of "loss" gives the gradients of the model's weights.
        """
        if images.shape not in self._steps:
            self._steps[images.shape] = self._compile(images.shape)
        step = self._steps[images.shape]
        assert self._weights is not None  # noqa: S101 compiled
        self._weights.load(self._model)
        uploaded = _upload(images)
        predictions = step.predict(uploaded, self._weights.tensors)
        output = DenseOutput(*(torch.from_numpy(x.numpy()) for x in predictions), *step.places)
        targets = assign_targets(output, boxes_xyxy=boxes_xyxy, mask=mask, matching=self._matching)
        results = step.learn(
            uploaded, [_upload(values) for values in targets], self._weights.tensors
        )
        values = [torch.from_numpy(result.numpy()) for result in results]
        terms, moved = values[0], values[1 : 1 + len(step.statistics)]
        gradients = values[1 + len(step.statistics) :]
        buffers = dict(self._model.named_buffers())
        with torch.no_grad():
            for name, value in zip(step.statistics, moved, strict=True):
                buffers[name].copy_(value)
            for name in step.counters:
                buffers[name] += 1
        weights = dict(self._model.named_parameters())
        loss = _GivenGradients.apply(  # type: ignore[no-untyped-call]
            terms.sum(), gradients, *(weights[name] for name in self._trained)
        )
        by_name = dict(zip(TERM_NAMES, terms, strict=True))
        if self._model.exclusion is not None:
            # Of a few numbers, and learns five: no work for the card.
            candidates = self._model.candidates(output)
            wanted = assign_slots(
                candidates, output, boxes_xyxy=boxes_xyxy, mask=mask, matching=self._matching
            )
            of_slots = slot_loss(candidates, wanted, settings=self._settings)
            loss = loss + of_slots
            by_name["slots"] = of_slots.detach()
        return {"loss": loss, **by_name}
