"""The backends of this machine, and how to get the missing ones: `haustra backends`."""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from haustra.core.backend_names import BackendName, wanted_backend
from haustra.core.errors import HaustraError, option
from haustra.webgpu import device as webgpu


@dataclass(frozen=True, kw_only=True)
class BackendState:
    """One backend on this machine."""

    name: BackendName
    hardware: tuple[str, ...]
    """Devices that it can use, its default first; empty where it does not run."""
    missing: str | None  # the missing part and how to get it


@dataclass(frozen=True, kw_only=True)
class BackendReport:
    """All backends of this machine."""

    default: str  # backend of a command without `--backend`
    auto: str | None
    """Backend that `haustra train --backend auto` takes and why; None without torch."""
    backends: tuple[BackendState, ...]
    adapters: tuple[webgpu.Adapter, ...]  # all adapters of WebGPU
    onnx: dict[str, bool | str]
    """For .onnx files, per backend: True, or how to get an ONNX Runtime that has it."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return vars(self) | {
            "backends": [asdict(state) for state in self.backends],
            "adapters": [adapter.to_json() for adapter in self.adapters],
        }


def _adapter_text(adapter: webgpu.Adapter) -> str:
    size = adapter.memory_bytes
    memory = "memory unknown" if size is None else f"{size / 1e9:.1f} GB"
    kind = f"{adapter.kind} GPU"
    if adapter.is_software:
        kind = "SOFTWARE RENDERER: the CPU emulates a GPU, slower than the backend cpu"
    vendor, driver = f"vendor {adapter.vendor}", f"driver {adapter.driver}"
    return ", ".join([adapter.name, vendor, driver, adapter.graphics, memory, kind])


def _missing(name: BackendName, error: HaustraError) -> BackendState:
    reason = error.message.removeprefix(f"{option('backend', name)}: ")
    reason = reason.removesuffix(f", or use {option('backend', 'cpu')}")
    return BackendState(name=name, hardware=(), missing=str(HaustraError(reason)))


def _describe_wgpu() -> tuple[BackendState, tuple[webgpu.Adapter, ...]]:
    adapters: tuple[webgpu.Adapter, ...] = ()
    try:
        adapters = webgpu.list_adapters()
        chosen = webgpu.choose_adapter(adapters)
    except HaustraError as error:
        return _missing("wgpu", error), adapters
    chosen_first = sorted(adapters, key=lambda adapter: adapter is not chosen)
    texts = tuple(map(_adapter_text, chosen_first))
    return BackendState(name="wgpu", hardware=texts, missing=None), adapters


def _describe_torch(name: BackendName) -> BackendState:
    if find_spec("torch") is None:
        missing = "torch is not installed; run: pip install 'haustra[train]'"
        return BackendState(name=name, hardware=(), missing=missing)
    from haustra.backends.choose import choose_backend

    try:
        hardware = choose_backend(name).hardware
    except HaustraError as error:
        return _missing(name, error)
    if name == "cuda":
        import torch

        memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
        hardware = f"{hardware}, {memory_gb:.1f} GB, CUDA {torch.version.cuda}"
    return BackendState(name=name, hardware=(hardware,), missing=None)


def describe_backends(*, onnx_providers: dict[BackendName, tuple[str, str]]) -> BackendReport:
    """Look for the backends of this machine; starts no training and changes nothing.

    Args:
        onnx_providers: ONNX Runtime's name of each backend, and how to get it.
    """
    wgpu, adapters = _describe_wgpu()
    auto: str | None = None
    available: list[str] = []
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        available = onnxruntime.get_available_providers()
    if find_spec("torch") is not None:
        from haustra.backends.choose import choose_backend

        auto = str(choose_backend("auto", for_training=True))
    return BackendReport(
        default=wanted_backend(None),
        auto=auto,
        backends=(_describe_torch("cpu"), wgpu, _describe_torch("cuda"), _describe_torch("mps")),
        adapters=adapters,
        onnx={
            name: provider in available or remedy
            for name, (provider, remedy) in onnx_providers.items()
        },
    )
