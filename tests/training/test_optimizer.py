import pytest
import torch

from haustra.models.detector import build_model, default_config
from haustra.training.optimizer import DetectorOptimizer, Muon, orthogonalize
from haustra.training.recipe import OptimizerSettings


@pytest.mark.parametrize("shape", [(24, 200), (200, 24), (40, 40)])
def test_a_step_keeps_its_directions_and_levels_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(1.0, 0.05, len(s))
    made = orthogonalize(u * s @ v, settings=OptimizerSettings())
    along = u.T @ made @ v.T
    assert (along.diagonal() > 0.5).all()
    assert (along.diagonal() < 1.4).all()
    assert float((along - along.diagonal().diag()).abs().max()) < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 1e-2])
def test_a_gradient_of_few_directions_makes_no_larger_step(noise: float) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(96, 4) @ torch.randn(4, 864) + noise * torch.randn(96, 864)
    assert (
        float(torch.linalg.matrix_norm(orthogonalize(matrix, settings=OptimizerSettings()), 2))
        < 1.4
    )


def test_the_memory_layout_does_not_change_a_step() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(32, 16, 3, 3), torch.randn(32, 16, 3, 3)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = torch.nn.Parameter(start.clone(memory_format=layout))
        kernel.grad = gradient.clone(memory_format=layout)
        optimizer = Muon([{"params": [kernel]}], settings=OptimizerSettings())
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        moved.append(kernel.detach() - start)
    torch.testing.assert_close(moved[0], moved[1])
    assert float(moved[0].norm()) == pytest.approx(0.1 * 32**0.5, rel=0.2)


@pytest.mark.parametrize("backbone", ["plain", "efficientnet-lite0"])
def test_every_trained_weight_moves_and_no_frozen_one(backbone: str) -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4, backbone=backbone))  # type: ignore[arg-type]
    optimizer = DetectorOptimizer(model, weight_decay=0.0, settings=OptimizerSettings())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.set_rate(1e-3)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter.detach(), before[name])
        assert moved == parameter.requires_grad, name


def test_only_kernels_decay() -> None:
    model = build_model(default_config("tiny", max_boxes=1))
    optimizer = DetectorOptimizer(model, weight_decay=0.5, settings=OptimizerSettings())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.set_rate(0.1)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), expected)
