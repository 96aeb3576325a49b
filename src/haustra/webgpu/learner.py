"""The loss of a detector and its gradients, computed on WebGPU by tinygrad.

`haustra.webgpu.aten` runs the graph of the PyTorch module. Matching and the choice of the slots
stay in PyTorch on the CPU, since they work on a few numbers per cell. The weights live in the
PyTorch module and are copied to the GPU before each use, so that the optimizer, the moving average
and the checkpoint are the same as with every backend.

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

from haustra.models.backbone import images_to_input
from haustra.models.detector import DenseOutput, SlotDetector
from haustra.models.losses import CellTargets, DetectionLoss, DeviceBatch, Looks
from haustra.models.refiner import Refiner
from haustra.webgpu.aten import Program
from haustra.webgpu.device import DEVICE, open_device

PREFIX = "detector."
NUM_PREDICTIONS = 2
"""Outputs of `dense` that matching reads; features and the positions of the cells follow."""
DENSE_TERMS, LOOK_TERMS = ("objectness", "l1", "iou"), ("sides", "look")


class _Predicting(nn.Module):
    def __init__(self, detector: SlotDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> DenseOutput:
        return self.detector.dense(images_to_input(images))


class _Loss(nn.Module):
    """The loss that needs the gradient of the features: that of dense heads and refiner."""

    def __init__(self, loss: DetectionLoss, refiner: Refiner | None) -> None:
        super().__init__()
        self._loss, self.refiner = loss, refiner

    @property
    def names(self) -> tuple[str, ...]:
        return DENSE_TERMS if self.refiner is None else DENSE_TERMS + LOOK_TERMS

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        logits, boxes, features, *rest = tensors
        targets, rest = CellTargets(*rest[:3]), rest[3:]
        # Only the matching needs the positions of the cells.
        output = DenseOutput(logits, boxes, features, cells_xy=boxes, cell_sizes=boxes)
        terms = self._loss.dense_terms(output, targets, every_cell=True)
        if self.refiner is not None:
            looks = Looks(*rest)
            terms |= self._loss.look_terms(self.refiner(features, looks.boxes_xyxy), looks)
        return [terms[name] for name in self.names]


def _upload(values: NDArray[Any] | Tensor) -> GpuTensor:
    array = values.detach().numpy() if isinstance(values, Tensor) else values
    return GpuTensor(np.ascontiguousarray(array), device=DEVICE).realize()


class _DeviceWeights:
    """Floating-point weights and statistics of a module on the GPU."""

    def __init__(self, names: list[str], model: nn.Module) -> None:
        state = model.state_dict()
        self.names = [name for name in names if state[name].is_floating_point()]
        self.tensors = [_upload(state[name]) for name in self.names]

    def load(self, model: nn.Module) -> None:
        """Copy the module's current weights into the buffers on the GPU."""
        state = model.state_dict()
        for name, tensor in zip(self.names, self.tensors, strict=True):
            data = np.ascontiguousarray(state[name].detach().numpy()).data.cast("B")
            buffer = tensor.uop.base.realized
            buffer.copy_from(Buffer("PYTHON", buffer.size, buffer.dtype, opaque=data))


@dataclass(frozen=True, kw_only=True)
class _CompiledStep:
    """The compiled functions of one batch shape, with their constants."""

    predict: Callable[..., list[GpuTensor]]
    learn: Callable[..., list[GpuTensor]]
    term_names: tuple[str, ...]
    places: list[Tensor]  # positions and sizes of the cells
    statistics: list[str]
    counters: list[str]


class _GivenGradients(torch.autograd.Function):
    """A loss whose gradients are already computed."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        return (None, None, *(gradient * factor for gradient in ctx.gradients))


class WgpuLearner:
    """The learner of the backend wgpu.

    Args:
        model: The model on the CPU, in float32 and in training mode.
    """

    compiles_each_size = True

    def __init__(self, model: SlotDetector, *, loss: DetectionLoss) -> None:
        open_device()
        self._model, self._loss = model, loss
        self._steps: dict[tuple[int, ...], _CompiledStep] = {}
        self._weights: _DeviceWeights | None = None
        self._trained: list[str] = []

    def _compile(self, shape: tuple[int, ...]) -> _CompiledStep:
        program = Program(
            _Predicting(self._model), (torch.zeros(shape, dtype=torch.uint8),), prefix=PREFIX
        )
        places = program.constant_outputs
        loss = _Loss(self._loss, self._model.refiner)
        loss_program = Program(loss, self._loss_inputs(shape, num_cells=len(places[0])))
        if self._weights is None:
            used = [*program.state_names, *loss_program.state_names]
            self._weights = _DeviceWeights(used, self._model)
            self._trained = [
                name
                for name, weight in self._model.named_parameters()
                if weight.requires_grad and name in self._weights.names
            ]
        names, trained = self._weights.names, self._trained

        def predict(images: GpuTensor, tensors: list[GpuTensor]) -> list[GpuTensor]:
            outputs, _ = program(dict(zip(names, tensors, strict=True)), images)
            return [output.contiguous().realize() for output in outputs[:NUM_PREDICTIONS]]

        def learn(
            images: GpuTensor, targets: list[GpuTensor], tensors: list[GpuTensor]
        ) -> list[GpuTensor]:
            states = dict(zip(names, tensors, strict=True))
            outputs, moved = program(states, images)
            terms, _ = loss_program(states, *outputs[: NUM_PREDICTIONS + 1], *targets)
            total = functools.reduce(operator.add, terms)
            gradients = total.gradient(*(states[name] for name in trained))
            statistics = [moved[name] for name in program.statistics]
            results = [GpuTensor.stack(*terms), *statistics, *gradients]
            contiguous = [result.contiguous() for result in results]
            GpuTensor.realize(*contiguous)
            return contiguous

        return _CompiledStep(
            predict=TinyJit(predict),
            learn=TinyJit(learn),
            term_names=loss.names,
            places=places,
            statistics=program.statistics,
            counters=program.counters,
        )

    def _loss_inputs(self, shape: tuple[int, ...], *, num_cells: int) -> tuple[Tensor, ...]:
        """Return examples of what `_Loss` reads for images of a shape."""
        config, (batch, height, width, _) = self._model.config, shape
        level = 6 - config.num_levels  # the finest map has stride 2 ** level
        features = torch.zeros(batch, config.neck, height >> level, width >> level)
        logits = torch.zeros(batch, num_cells)
        boxes = torch.zeros(batch, num_cells, 4)
        dense = (logits, boxes, features, logits, logits.bool(), boxes)
        if self._model.refiner is None:
            return dense
        settings = self._loss.settings.looks
        rows = torch.zeros(batch, settings.num_own + settings.num_jittered)
        sides = torch.zeros(*rows.shape, 4)
        return (*dense, *Looks(sides, sides, ious=rows, used=rows, learns=rows))

    def loss_terms(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Return the loss of a batch and its terms; see `Learner` in `haustra.training.learner`."""
        images, boxes_xyxy, mask = batch.images.numpy(), batch.boxes_xyxy, batch.mask
        if images.shape not in self._steps:
            self._steps[images.shape] = self._compile(images.shape)
        step = self._steps[images.shape]
        assert self._weights is not None  # noqa: S101 compiled
        self._weights.load(self._model)
        uploaded = _upload(images)
        predictions = step.predict(uploaded, self._weights.tensors)
        scores, boxes = (torch.from_numpy(x.numpy()) for x in predictions)
        # The features stay on the GPU.
        output = DenseOutput(scores, boxes, torch.empty(0), *step.places)
        labels = {"boxes_xyxy": boxes_xyxy, "mask": mask}
        targets: list[Tensor] = [*self._loss.assign_targets(output, **labels)]
        candidates = None
        if self._model.exclusion is not None:
            candidates = self._model.candidates(output)
        if self._model.refiner is not None and candidates is not None:
            targets += self._loss.assign_looks(candidates, output, **labels)
        results = step.learn(
            uploaded, [_upload(target) for target in targets], self._weights.tensors
        )
        terms, *values = [torch.from_numpy(result.numpy()) for result in results]
        moved, gradients = values[: len(step.statistics)], values[len(step.statistics) :]
        with torch.no_grad():
            for name, value in zip(step.statistics, moved, strict=True):
                self._model.get_buffer(name).copy_(value)
            for name in step.counters:
                self._model.get_buffer(name).add_(1)
        weights = [self._model.get_parameter(name) for name in self._trained]
        loss = _GivenGradients.apply(terms.sum(), gradients, *weights)  # type: ignore[no-untyped-call]
        by_name = dict(zip(step.term_names, terms, strict=True))
        if candidates is not None:
            # This loss has five weights and few inputs, so PyTorch computes it.
            wanted = self._loss.assign_slots(candidates, output, **labels)
            of_slots = self._loss.slot_term(candidates, wanted)
            loss = loss + of_slots
            by_name["slots"] = of_slots.detach()
        return {"loss": loss, **by_name}
