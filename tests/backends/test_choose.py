from pathlib import Path
from typing import Any

import pytest
import torch

from haustra.backends import webgpu
from haustra.backends.choose import choose_backend, resolve_precision
from haustra.core.backend_names import BackendFlag, wanted_backend
from haustra.core.errors import HaustraError
from haustra.training.config import TrainConfig
from wgpu_adapters import card, software


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU at all, whatever this machine has."""
    for name in ("HAUSTRA_BACKEND", "WGPU_ADAPTER_NAME", "WGPU_BACKEND", "WGPU_POWER_PREF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(webgpu, "missing_package", lambda: None)
    monkeypatch.setattr(webgpu, "list_adapters", lambda: ())


def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")


def with_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def with_adapters(monkeypatch: pytest.MonkeyPatch, *adapters: webgpu.Adapter) -> None:
    monkeypatch.setattr(webgpu, "list_adapters", lambda: adapters)


def test_auto_takes_cuda_then_mps_then_a_hardware_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_adapters(monkeypatch, card("Radeon RX"), software())
    assert str(choose_backend("auto")) == (
        "backend wgpu: Radeon RX (vulkan) (auto: cuda: no NVIDIA GPU, or no driver for it; "
        "mps: no GPU that Metal can use)"
    )
    with_mps(monkeypatch)
    assert choose_backend("auto").name == "mps"
    with_cuda(monkeypatch)
    assert str(choose_backend("auto")) == ("backend cuda: A Card (auto: the first choice is here)")


def test_auto_leaves_software_renderers_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_adapters(monkeypatch, software())
    chosen = choose_backend("auto")
    assert chosen.name == "ndarray"
    assert chosen.why.endswith("; wgpu: llvmpipe is a software renderer")


def test_auto_goes_on_where_wgpu_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto").why.endswith("; wgpu: no WebGPU adapter")
    monkeypatch.setattr(webgpu, "missing_package", lambda: "tinygrad")
    assert choose_backend("auto").why.endswith("; wgpu: the package tinygrad is not installed")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "cuda",
            "--backend cuda: no NVIDIA GPU, or no driver for it; look at `nvidia-smi`, or use "
            "--backend ndarray",
        ),
        (
            "mps",
            "--backend mps: no GPU that Metal can use; it takes macOS 12.3 or newer, or use "
            "--backend ndarray",
        ),
        (
            "wgpu",
            "--backend wgpu: no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on Debian "
            "without a GPU: apt install libvulkan1 mesa-vulkan-drivers), or use --backend ndarray",
        ),
    ],
)
def test_what_was_asked_for_and_is_not_here_is_an_error(flag: BackendFlag, message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        choose_backend(flag)
    assert str(caught.value) == message


def test_a_pytorch_without_cuda_is_told_from_a_machine_without_a_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(HaustraError) as caught:
        choose_backend("cuda")
    assert str(caught.value) == (
        f"--backend cuda: this PyTorch ({torch.__version__}) is built without CUDA; install one "
        "with it (https://pytorch.org/get-started/locally), or use --backend ndarray"
    )


def test_a_software_renderer_is_used_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_adapters(monkeypatch, software())
    assert str(choose_backend("wgpu")) == "backend wgpu: llvmpipe (vulkan, software renderer)"


def test_the_environment_sets_the_default_and_the_flag_counts_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert wanted_backend(None) == "ndarray"
    monkeypatch.setenv("HAUSTRA_BACKEND", "auto")
    assert wanted_backend(None) == "auto"
    assert wanted_backend("wgpu") == "wgpu"
    monkeypatch.setenv("HAUSTRA_BACKEND", "gpu")
    with pytest.raises(HaustraError) as caught:
        wanted_backend(None)
    assert str(caught.value) == (
        "HAUSTRA_BACKEND=gpu: expected one of ndarray, wgpu, cuda, mps, auto"
    )


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", backend="wgpu") == "float32"
    with pytest.raises(HaustraError) as caught:
        resolve_precision("bfloat16", backend="wgpu")
    assert str(caught.value) == (
        "--precision bfloat16 with --backend wgpu: WebGPU has no such type; expected float32 or "
        "auto"
    )
    for has_it, expected in ((True, "bfloat16"), (False, "float32")):

        def supported(*, including_emulation: bool, has_it: bool = has_it) -> bool:
            assert not including_emulation
            return has_it

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert resolve_precision("auto", backend="cuda") == expected
    assert resolve_precision("float32", backend="cuda") == "float32"


def test_torch_compile_has_no_part_in_wgpu() -> None:
    settings: dict[str, Any] = {"manifest": Path("m.json"), "backend": "wgpu"}
    with pytest.raises(HaustraError) as caught:
        TrainConfig(**settings, compile="on")
    assert str(caught.value) == (
        "compile='on' with backend='wgpu': expected auto or off, since tinygrad always compiles "
        "and does not use torch.compile"
    )
