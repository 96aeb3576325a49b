"""The interpreter of exported graphs, on whatever WebGPU adapter is here."""

import numpy as np
import pytest
import torch
from tinygrad import Tensor as GpuTensor
from torch import Tensor, nn
from torch.nn import functional

from haustra.core.errors import HaustraError
from haustra.models.efficientnet import InvertedBlock
from haustra.webgpu.aten import Program
from haustra.webgpu.device import DEVICE, open_device
from wgpu_adapters import needs_adapter


def upload(tensor: Tensor) -> GpuTensor:
    open_device()
    return GpuTensor(tensor.detach().contiguous().numpy(), device=DEVICE).realize()


def relative(ours: GpuTensor, theirs: Tensor) -> float:
    difference = torch.from_numpy(ours.numpy()) - theirs.detach()
    return float(difference.norm() / theirs.detach().norm())


class Pretrained(nn.Module):
    """What the pretrained backbone has and the plain one lacks: frozen blocks, uneven padding,
    depthwise kernels, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = InvertedBlock(3, 2, 4, 6, 2, frozen=True)
        self.frozen.requires_grad_(False)
        self.trained = InvertedBlock(5, 2, 6, 8, 3, frozen=False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.trained(self.frozen(images))
        return features


@needs_adapter
def test_blocks_of_the_pretrained_backbone_agree_with_their_gradients_and_statistics() -> None:
    torch.manual_seed(0)
    module = Pretrained().train()
    images, factors = torch.randn(3, 4, 24, 24), torch.randn(3, 8, 6, 6)
    program = Program(module, (images,))
    state = module.state_dict()
    weights = {name: upload(state[name]) for name in program.state_names if state[name].ndim}
    [features], moved = program(weights, upload(images))

    expected = module(images)
    assert relative(features, expected) < 1e-4
    (expected * factors).sum().backward()
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    assert len(trained) == 8
    gradients = (features * upload(factors)).sum().gradient(*(weights[name] for name in trained))
    for gradient, weight in zip(gradients, trained.values(), strict=True):
        assert weight.grad is not None
        assert relative(gradient, weight.grad) < 1e-3

    assert sorted(moved) == sorted(program.statistics)
    assert len(program.counters) == 3
    for name, value in moved.items():
        assert relative(value, module.state_dict()[name]) < 1e-4
        assert not torch.equal(module.state_dict()[name], state[name].new_tensor(0))


class Assorted(nn.Module):
    """Operators whose meaning is in their details."""

    def forward(self, x: Tensor, y: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
        grown = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        inner = x[:, 1:, :2].clamp(min=0, max=0.5) ** 2
        return (
            functional.max_pool2d(grown, 2)[:, 0] * x[:, 1].detach(),
            inner,
            torch.maximum(x, y).prod(dim=1) - torch.minimum(x, y).abs().sum(dim=1),
            functional.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction="none"),
            torch.where(chosen, x, 2 - y).flatten(1).transpose(0, 1),
            torch.cat([x, torch.arange(24.0).reshape(2, 1, 4, 3)], dim=1).exp(),
        )


@needs_adapter
def test_operators_agree_in_their_details() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 4, 3, requires_grad=True), torch.randn(2, 3, 4, 3)
    with torch.no_grad():
        x[0, 0, 0] = 0  # where gradients have their corners: products, absolute values, clamping
        y[0, 0, 0] = 1
    chosen = torch.rand(x.shape) > 0.5
    program = Program(Assorted(), (x.detach(), y, chosen))
    on_gpu = upload(x)
    outputs, _ = program({}, on_gpu, upload(y), upload(chosen))
    expected = Assorted()(x, y, chosen)
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), atol=1e-4, rtol=1e-4)
        [gradient] = ours.sum().gradient(on_gpu)
        [reference] = torch.autograd.grad(theirs.sum(), x, retain_graph=True)
        np.testing.assert_allclose(gradient.numpy(), reference.numpy(), atol=1e-3, rtol=1e-3)


def test_what_depends_on_no_input_is_computed_once_by_pytorch() -> None:
    class WithPlaces(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, torch.arange(4).add(0.5)

    program = Program(WithPlaces(), (torch.zeros(2),))
    [places] = program.constant_outputs
    assert torch.equal(places, torch.tensor([0.5, 1.5, 2.5, 3.5]))


def test_unknown_operators_are_named() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            strange: Tensor = torch.linalg.det(torch.erfinv(x))
            return strange

    with pytest.raises(HaustraError) as caught:
        Program(Strange(), (torch.zeros(2, 2),))
    assert str(caught.value) == (
        "backend='wgpu' does not know the operator(s) erfinv.default, linalg_det.default of this "
        "model; use backend='cpu', or add them to haustra.webgpu.aten"
    )


def test_an_input_that_is_given_twice_stays_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - y

    same = torch.zeros(3)
    assert len(Program(Difference(), (same, same))._inputs) == 2
