from pathlib import Path
from typing import Any

import pytest
import torch

from haustra.backends.choose import choose_backend, resolve_precision
from haustra.core.backend_names import BackendFlag, wanted_backend
from haustra.core.errors import HaustraError
from haustra.training.config import TrainConfig
from haustra.webgpu import device as webgpu
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
    assert str(choose_backend("auto", for_training=True)) == (
        "backend wgpu: Radeon RX (vulkan) (auto: cuda: no NVIDIA GPU, or no driver for it; "
        "mps: no GPU that Metal can use)"
    )
    with_mps(monkeypatch)
    assert choose_backend("auto").name == "mps"
    with_cuda(monkeypatch)
    assert (
        str(choose_backend("auto")) == "backend cuda: A Card (auto: the first choice is available)"
    )


def test_auto_skips_software_renderers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_adapters(monkeypatch, software())
    chosen = choose_backend("auto", for_training=True)
    assert chosen.name == "cpu"
    assert chosen.why.endswith("; wgpu: llvmpipe is a software renderer")


def test_auto_continues_where_wgpu_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto", for_training=True).why.endswith("; wgpu: no WebGPU adapter")
    monkeypatch.setattr(webgpu, "missing_package", lambda: "tinygrad")
    assert choose_backend("auto", for_training=True).why.endswith(
        "; wgpu: the package tinygrad is not installed"
    )


def test_auto_of_a_checkpoint_takes_no_wgpu_which_only_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_adapters(monkeypatch, card("Radeon RX"))
    assert choose_backend("auto").name == "cpu"
    with pytest.raises(HaustraError) as caught:
        choose_backend("wgpu")
    assert str(caught.value) == (
        "backend='wgpu': checkpoints run on WebGPU in a training only; run `haustra export` and "
        "use the .onnx file, which ONNX Runtime computes on WebGPU, or use backend='cpu'"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "cuda",
            "backend='cuda': no NVIDIA GPU, or no driver for it; look at `nvidia-smi`, or use "
            "backend='cpu'",
        ),
        (
            "mps",
            "backend='mps': no GPU that Metal can use; use macOS 12.3 or newer, or use "
            "backend='cpu'",
        ),
        (
            "wgpu",
            "backend='wgpu': no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on Debian "
            "without a GPU: apt install libvulkan1 mesa-vulkan-drivers), or use backend='cpu'",
        ),
    ],
)
def test_a_wanted_backend_that_is_missing_is_an_error(flag: BackendFlag, message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        choose_backend(flag, for_training=True)
    assert str(caught.value) == message


def test_a_pytorch_without_cuda_has_another_message_than_a_machine_without_a_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(HaustraError) as caught:
        choose_backend("cuda")
    assert str(caught.value) == (
        f"backend='cuda': this PyTorch ({torch.__version__}) is built without CUDA; install one "
        "with it (https://pytorch.org/get-started/locally), or use backend='cpu'"
    )


def test_a_software_renderer_is_used_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_adapters(monkeypatch, software())
    chosen = choose_backend("wgpu", for_training=True)
    assert str(chosen) == "backend wgpu: llvmpipe (vulkan, software renderer)"


def test_the_environment_sets_the_default_and_the_flag_overrides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert wanted_backend(None) == "cpu"
    assert wanted_backend("ndarray") == "cpu"
    monkeypatch.setenv("HAUSTRA_BACKEND", "ndarray")
    assert wanted_backend(None) == "cpu"
    monkeypatch.setenv("HAUSTRA_BACKEND", "auto")
    assert wanted_backend(None) == "auto"
    assert wanted_backend("wgpu") == "wgpu"
    monkeypatch.setenv("HAUSTRA_BACKEND", "gpu")
    with pytest.raises(HaustraError) as caught:
        wanted_backend(None)
    assert str(caught.value) == (
        "HAUSTRA_BACKEND=gpu: expected one of cpu, wgpu, cuda, mps, auto, ndarray"
    )
    with pytest.raises(HaustraError) as caught:
        wanted_backend("tpu")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "backend='tpu': expected one of cpu, wgpu, cuda, mps, auto, ndarray"
    )


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", backend="wgpu") == "float32"
    with pytest.raises(HaustraError) as caught:
        resolve_precision("bfloat16", backend="wgpu")
    assert str(caught.value) == (
        "precision='bfloat16' with backend='wgpu': WebGPU has no such type; expected float32 or "
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
