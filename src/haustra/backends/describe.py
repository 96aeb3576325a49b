"""What each backend would run on here, or how to get what it lacks: `haustra backends`."""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from haustra.backends import webgpu
from haustra.core.backend_names import BackendName, wanted_backend
from haustra.core.errors import HaustraError

MISSING_TORCH = "torch is not installed; run: pip install 'haustra[train]'"


@dataclass(frozen=True, kw_only=True)
class BackendState:
    """One backend on this machine."""

    name: BackendName
    hardware: tuple[str, ...]
    """What it can run on, the one that it takes first; empty where it does not run."""
    missing: str | None
    """What it lacks and how to get it."""


@dataclass(frozen=True, kw_only=True)
class BackendReport:
    """All backends of this machine."""

    default: str
    """What a command takes without `--backend`."""
    auto: str | None
    """What `--backend auto` takes and why; None without torch."""
    backends: tuple[BackendState, ...]
    adapters: tuple[webgpu.Adapter, ...]
    """All of WebGPU's."""
    onnx: dict[str, bool | str]
    """For ONNX files, per backend: true, or how to get an ONNX Runtime that has it."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "default": self.default,
            "auto": self.auto,
            "backends": [asdict(state) for state in self.backends],
            "adapters": [adapter.to_json() for adapter in self.adapters],
            "onnx": self.onnx,
        }


def _adapter_text(adapter: webgpu.Adapter) -> str:
    memory = adapter.memory_bytes
    parts = [
        adapter.name,
        f"vendor {adapter.vendor}",
        f"driver {adapter.driver}",
        adapter.graphics,
        "memory unknown" if memory is None else f"{memory / 1e9:.1f} GB",
        "SOFTWARE RENDERER: the CPU plays a GPU, slower than ndarray"
        if adapter.is_software
        else f"{adapter.kind} GPU",
    ]
    return ", ".join(parts)


def _not_here(name: BackendName, error: HaustraError) -> BackendState:
    missing = str(error).removeprefix(f"--backend {name}: ")
    return BackendState(
        name=name, hardware=(), missing=missing.removesuffix(", or use --backend ndarray")
    )


def _describe_wgpu() -> tuple[BackendState, tuple[webgpu.Adapter, ...]]:
    adapters: tuple[webgpu.Adapter, ...] = ()
    try:
        adapters = webgpu.list_adapters()
        chosen = webgpu.choose_adapter(adapters)
    except HaustraError as error:
        return _not_here("wgpu", error), adapters
    others = [adapter for adapter in adapters if adapter is not chosen]
    texts = tuple(_adapter_text(adapter) for adapter in (chosen, *others))
    return BackendState(name="wgpu", hardware=texts, missing=None), adapters


def _describe_torch(name: BackendName) -> BackendState:
    if find_spec("torch") is None:
        return BackendState(name=name, hardware=(), missing=MISSING_TORCH)
    from haustra.backends.choose import choose_backend

    try:
        hardware = choose_backend(name).hardware
    except HaustraError as error:
        return _not_here(name, error)
    if name == "cuda":
        import torch

        memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
        hardware = f"{hardware}, {memory_gb:.1f} GB, CUDA {torch.version.cuda}"
    return BackendState(name=name, hardware=(hardware,), missing=None)


def describe_backends(*, onnx_providers: dict[BackendName, tuple[str, str]]) -> BackendReport:
    """Look at what this machine has; starts no training and changes nothing.

    Args:
        onnx_providers: per backend, ONNX Runtime's name of it, and how to get it.
    """
    wgpu, adapters = _describe_wgpu()
    states = (
        _describe_torch("ndarray"),
        wgpu,
        _describe_torch("cuda"),
        _describe_torch("mps"),
    )
    auto = None
    if find_spec("torch") is not None:
        from haustra.backends.choose import choose_backend

        auto = str(choose_backend("auto"))
    available: list[str] = []
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        available = onnxruntime.get_available_providers()
    onnx: dict[str, bool | str] = {
        name: provider in available or remedy for name, (provider, remedy) in onnx_providers.items()
    }
    return BackendReport(
        default=wanted_backend(None),
        auto=auto,
        backends=states,
        adapters=adapters,
        onnx=onnx,
    )
