"""Runs a PyTorch module with tinygrad tensors: one definition of each model, two engines.

`torch.export` turns a module into a graph of ATen operators; `Program` computes the graph with the
functions in OPERATORS, which tinygrad differentiates. The graph is the one for training, with batch
normalization and `detach`. PyTorch computes constant parts, such as the positions of the cells,
once.

An operator that OPERATORS lacks raises an error with its name.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tinygrad import Tensor, dtypes
from torch import nn
from torch.export.graph_signature import InputKind

from haustra.core.errors import HaustraError, option

Value = Any  # value of a node: a tinygrad tensor, a PyTorch constant, a number or a sequence

DTYPES = {torch.float32: dtypes.float32, torch.uint8: dtypes.uint8, torch.bool: dtypes.bool}


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    if stride[0] != stride[1] or set(dilation) != {1}:
        raise ValueError(f"conv2d of stride {stride} and dilation {dilation}")
    above, left = padding
    return x.conv2d(weight, bias, groups, stride[0], padding=(left, left, above, above))


def _max_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int] = ()) -> Tensor:
    return x.max_pool2d(tuple(kernel), stride=tuple(stride or kernel))


def _upsample_nearest(
    x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None
) -> Tensor:
    batch, channels, height, width = x.shape
    new_height, new_width = size or (height * factors[0], width * factors[1])  # type: ignore[index]
    down, right = int(new_height) // height, int(new_width) // width
    if (down * height, right * width) != (new_height, new_width):
        raise ValueError(f"upsample_nearest2d of {height}x{width} to {new_height}x{new_width}")
    return (
        x.reshape(batch, channels, height, 1, width, 1)
        .expand(batch, channels, height, down, width, right)
        .reshape(batch, channels, down * height, right * width)
    )


def _pad(x: Tensor, pads: Sequence[int], mode: str = "constant", value: float = 0) -> Tensor:
    if mode != "constant" or value:
        raise ValueError(f"pad of mode {mode} with {value}")
    sides = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
    return x.pad(((0, 0),) * (x.ndim - len(sides)) + tuple(sides))


def _clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    # The gradient passes where the value is just at the bound, as in PyTorch.
    if low is not None:
        x = (x < low).where(low, x)
    return x if high is None else (x > high).where(high, x)


def _hardtanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    # Unlike clamp's, its gradient is zero at the bounds, where inactive channels lie.
    return (x > low).where((x < high).where(x, high), low)


def _slice(
    x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    if step != 1:
        raise ValueError(f"slice of step {step}")
    high = None if end is None or end >= x.shape[dim] else end
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, high),)]


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _prod(x: Tensor, dim: int) -> Tensor:
    # Factor by factor: tinygrad's gradient of a product divides by the factors, which may be 0.
    return math.prod(
        [_select(x, dim, index) for index in range(1, x.shape[dim])], start=_select(x, dim, 0)
    )


def _binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weight: None = None,
    pos_weight: None = None,
    reduction: int = 1,
) -> Tensor:
    if weight is not None or pos_weight is not None or reduction != 0:
        raise ValueError("binary_cross_entropy_with_logits with weights or a reduction")
    # The form that does not overflow: max(x, 0) - x t + log(1 + exp(-|x|)). Its gradient is
    # sigmoid(x) - t, which its parts miss where x is 0.
    value = logits.relu() - logits * targets + (1 + (-logits.abs()).exp()).log()
    slope = logits.sigmoid() - targets
    return value.detach() + slope.detach() * (logits - logits.detach())


def _to(x: Tensor, dtype: torch.dtype, *_: Value) -> Tensor:
    # The other arguments concern the layout in PyTorch's memory.
    return x.cast(DTYPES[dtype])


OPERATORS: dict[str, Callable[..., Value]] = {
    "_assert_tensor_metadata.default": lambda *_: None,
    "abs.default": lambda x: x.abs(),
    "add.Tensor": operator.add,
    "add_.Tensor": operator.add,
    "binary_cross_entropy_with_logits.default": _binary_cross_entropy,
    "cat.default": lambda tensors, dim=0: tensors[0].cat(*tensors[1:], dim=dim),
    "clamp.default": _clamp,
    "clamp_min.default": _clamp,
    "conv2d.default": _conv2d,
    "detach.default": lambda x: x.detach(),
    "div.Tensor": operator.truediv,
    "exp.default": lambda x: x.exp(),
    "flatten.using_ints": lambda x, start=0, end=-1: x.flatten(start, end),
    "hardtanh.default": _hardtanh,
    "hardtanh_.default": _hardtanh,
    "matmul.default": operator.matmul,
    "max_pool2d.default": _max_pool2d,
    "maximum.default": lambda x, y: x.maximum(y),
    "mean.default": lambda x: x.mean(),
    "mean.dim": lambda x, dims: x.mean(tuple(dims)),
    "minimum.default": lambda x, y: x.minimum(y),
    "mul.Tensor": operator.mul,
    "neg.default": operator.neg,
    "pad.default": _pad,
    "permute.default": lambda x, dims: x.permute(tuple(dims)),
    "pow.Tensor_Scalar": lambda x, exponent: x * x if exponent == 2 else x.pow(exponent),
    "prod.dim_int": _prod,
    "relu.default": lambda x: x.relu(),
    "relu_.default": lambda x: x.relu(),
    "reshape.default": lambda x, shape: x.reshape(tuple(shape)),
    "rsub.Scalar": lambda x, number: number - x,
    "select.int": _select,
    "sigmoid.default": lambda x: x.sigmoid(),
    "slice.Tensor": _slice,
    "stack.default": lambda tensors, dim=0: tensors[0].stack(*tensors[1:], dim=dim),
    "sub.Tensor": operator.sub,
    "sum.default": lambda x: x.sum(),
    "sum.dim_IntList": lambda x, dims: x.sum(tuple(dims)),
    "tanh.default": lambda x: x.tanh(),
    "to.dtype": _to,
    "to.device": lambda x, _device, dtype, *_: _to(x, dtype),
    "transpose.int": lambda x, first, second: x.transpose(first, second),
    "upsample_nearest2d.vec": _upsample_nearest,
    "unsqueeze.default": lambda x, dim: x.unsqueeze(dim),
    "where.self": lambda chosen, x, y: chosen.where(x, y),
}
"""Functions of the ATen operators without state. Batch normalization is a method of `Program`."""
BATCH_NORM = "batch_norm.default"
IN_PLACE = {"add_.Tensor", "relu_.default", "hardtanh_.default"}
IGNORED_SETTINGS = {"memory_format", "device", "layout", "pin_memory", "dtype"}
"""Arguments of `to` and of assertions that do not change the value."""


def _operator_name(node: Any) -> str:
    return str(node.target).removeprefix("aten.")


class Program:
    """The graph of a module for inputs of fixed shapes.

    Args:
        module: The module, in training or evaluation mode.
        inputs: Examples with the shapes and dtypes of every call.
        prefix: Prefix of the module's state names to remove.

    Raises:
        HaustraError: The graph has operators that OPERATORS lacks.
    """

    def __init__(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], *, prefix: str = ""
    ) -> None:
        # Copies: a tensor that is given twice would become one input of the graph.
        exported = torch.export.export(module, tuple(tensor.clone() for tensor in inputs))
        *nodes, output = exported.graph.nodes
        self._nodes: list[Any] = [node for node in nodes if node.op == "call_function"]
        self._outputs: list[str] = [item.name for item in output.args[0]]
        self._inputs: list[str] = []
        self._states: dict[str, str] = {}  # name of the weight or statistic of each placeholder
        self._constants: dict[str, torch.Tensor] = {}
        for spec in exported.graph_signature.input_specs:
            name, target = spec.arg.name, spec.target
            if spec.kind == InputKind.USER_INPUT:
                self._inputs.append(name)
            elif spec.kind in {InputKind.PARAMETER, InputKind.BUFFER} and target is not None:
                self._states[name] = target.removeprefix(prefix)
            elif spec.kind == InputKind.CONSTANT_TENSOR and target is not None:
                self._constants[name] = exported.constants[target]
            else:
                raise AssertionError(f"a graph with an input of kind {spec.kind}")
        self._compute_constants()
        self._check_operators()

    def _compute_constants(self) -> None:
        """Compute with PyTorch the nodes that depend on no input and no weight."""
        values: dict[str, Value] = dict(self._constants)
        with torch.no_grad():
            for node in self._nodes:
                if any(source.name not in values for source in node.all_input_nodes):
                    continue
                arguments = torch.fx.map_arg(node.args, lambda source: values[source.name])
                settings = torch.fx.map_arg(node.kwargs, lambda source: values[source.name])
                values[node.name] = node.target(*arguments, **settings)
        self._constants = values

    def _check_operators(self) -> None:
        used = {
            _operator_name(node)
            for node in self._nodes
            if node.name not in self._constants and node.target is not operator.getitem
        }
        if unknown := used - OPERATORS.keys() - {BATCH_NORM}:
            names = ", ".join(sorted(unknown))
            raise HaustraError(
                f"{option('backend', 'wgpu')} does not know the operator(s) {names} "
                f"of this model; use {option('backend', 'cpu')}, or add them to haustra.webgpu.aten"
            )

    @property
    def state_names(self) -> list[str]:
        """Names of the weights and statistics that the graph uses."""
        used = {source.name for node in self._nodes for source in node.all_input_nodes}
        return [name for place, name in self._states.items() if place in used]

    @property
    def statistics(self) -> list[str]:
        """Names of the running statistics that a call updates."""
        return [
            self._states[place.name]
            for node in self._nodes
            if _operator_name(node) == BATCH_NORM and node.args[5]
            for place in node.args[3:5]
        ]

    @property
    def counters(self) -> list[str]:
        """Names of the integers that count calls; the caller updates them."""
        return [self._states[node.args[0].name] for node in self._nodes if self._is_counter(node)]

    @property
    def constant_outputs(self) -> list[torch.Tensor]:
        """Outputs that depend on no input and no weight, in order."""
        return [self._constants[name] for name in self._outputs if name in self._constants]

    def _is_counter(self, node: Any) -> bool:
        return _operator_name(node) == "add_.Tensor" and node.args[0].name in self._states

    def __call__(
        self, states: dict[str, Tensor], *inputs: Tensor
    ) -> tuple[list[Value], dict[str, Tensor]]:
        """Compute the graph lazily.

        Args:
            states: Weights and statistics by name, without `counters`.
            inputs: Tensors with the shapes and dtypes of the examples.

        Returns:
            The outputs (PyTorch tensors where they are constants) and the updated statistics.
        """
        values: dict[str, Value] = dict(zip(self._inputs, inputs, strict=True))
        values |= {place: states[name] for place, name in self._states.items() if name in states}
        updates: dict[str, Tensor] = {}
        device = inputs[0].device

        def look_up(node: Any) -> Value:
            if node.name not in values:
                # Move a constant to the device of the tensors.
                constant = self._constants[node.name]
                values[node.name] = Tensor(constant.contiguous().numpy(), device=device).realize()
            return values[node.name]

        for node in self._nodes:
            if node.name in self._constants or self._is_counter(node):
                continue
            name = _operator_name(node)
            arguments = torch.fx.map_arg(node.args, look_up)
            if node.target is operator.getitem:
                values[node.name] = arguments[0][arguments[1]]
            elif name == BATCH_NORM:
                values[node.name] = self._batch_norm(node, arguments, updates)
            else:
                settings = {k: v for k, v in node.kwargs.items() if k not in IGNORED_SETTINGS}
                values[node.name] = OPERATORS[name](*arguments, **settings)
            if name in IN_PLACE:
                values[node.args[0].name] = values[node.name]
        outputs = [
            self._constants[name] if name in self._constants else values[name]
            for name in self._outputs
        ]
        return outputs, updates

    def _batch_norm(
        self, node: Any, arguments: Sequence[Value], updates: dict[str, Tensor]
    ) -> Tensor:
        """Normalize [B,C,H,W] per channel; in training also update the running statistics."""
        x, weight, bias, running_mean, running_var, is_training, momentum, eps, _ = arguments
        mean, variance = running_mean, running_var
        if is_training:
            mean = x.mean((0, 2, 3))
        centered = x - mean.reshape(1, -1, 1, 1)
        if is_training:
            variance = (centered * centered).mean((0, 2, 3))
            count = x.shape[0] * x.shape[2] * x.shape[3]
            # The running variance is the unbiased one (Ioffe and Szegedy 2015, section 3.1).
            unbiased = variance.detach() * (count / max(1, count - 1))
            for place, old, new in (
                (node.args[3], running_mean, mean.detach()),
                (node.args[4], running_var, unbiased),
            ):
                updates[self._states[place.name]] = old * (1 - momentum) + new * momentum
        scale = weight * (variance + eps).rsqrt()
        return centered * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
