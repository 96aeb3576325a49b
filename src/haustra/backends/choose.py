"""The choice of the backend: the one that was asked for, or the best that this machine has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from haustra.core.backend_names import BackendFlag, BackendName, wanted_backend
from haustra.core.errors import HaustraError, option
from haustra.models.predict import Precision, resolve_cpu_precision
from haustra.webgpu import device as webgpu


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend that is available here."""

    name: BackendName
    hardware: str  # name of the GPU, or the CPU
    why: str = ""  # why `auto` chose it; empty where it was asked for

    def __str__(self) -> str:
        why = f" (auto: {self.why})" if self.why else ""
        return f"backend {self.name}: {self.hardware}{why}"

    @property
    def device(self) -> torch.device:
        """Device of PyTorch's tensors. With wgpu it is the CPU; tinygrad has its own tensors."""
        return torch.device("cpu" if self.name == "wgpu" else self.name)


def _missing(name: BackendName, reason_and_remedy: str) -> HaustraError:
    cpu = option("backend", "cpu")
    return HaustraError(f"{option('backend', name)}: {reason_and_remedy}, or use {cpu}")


def _find_cuda() -> str:
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        reason = f"this PyTorch ({torch.__version__}) is built without CUDA"
        remedy = "install one with it (https://pytorch.org/get-started/locally)"
        raise _missing("cuda", f"{reason}; {remedy}")
    if not torch.cuda.is_available():
        raise _missing("cuda", "no NVIDIA GPU, or no driver for it; look at `nvidia-smi`")
    return torch.cuda.get_device_name()


def _find_mps() -> str:
    if not torch.backends.mps.is_built():
        remedy = "use a Mac with Apple silicon"
        raise _missing("mps", f"this PyTorch is built without Metal; {remedy}")
    if not torch.backends.mps.is_available():
        raise _missing("mps", "no GPU that Metal can use; use macOS 12.3 or newer")
    return "Apple GPU (Metal)"


def _find_wgpu() -> str:
    return str(webgpu.choose_adapter(webgpu.list_adapters()))


def _find_cpu() -> str:
    return f"CPU, {torch.get_num_threads()} threads"


_FIND: dict[BackendName, Callable[[], str]] = {
    "cuda": _find_cuda,
    "mps": _find_mps,
    "wgpu": _find_wgpu,
    "cpu": _find_cpu,
}
"""Functions that look for each backend, in the order of `auto`."""


def _find_wgpu_hardware() -> str:
    if package := webgpu.missing_package():
        raise HaustraError(f"the package {package} is not installed")
    adapter = webgpu.choose_adapter(webgpu.list_adapters())
    if adapter.is_software:
        raise HaustraError(f"{adapter.name} is a software renderer")
    return str(adapter)


def _choose_best(*, for_training: bool) -> Backend:
    passed_over = []
    for name, find in _FIND.items():
        if name == "wgpu" and not for_training:
            continue
        try:
            hardware = _find_wgpu_hardware() if name == "wgpu" else find()
        except HaustraError as error:
            reason = str(error).removeprefix(f"backend={name!r}: ").partition(";")[0]
            passed_over.append(f"{name}: {reason}")
        else:
            why = "; ".join(passed_over) or "the first choice is available"
            return Backend(name=name, hardware=hardware, why=why)
    raise AssertionError("the CPU is always available")


def choose_backend(flag: BackendFlag | None, *, for_training: bool = False) -> Backend:
    """Return the backend of `--backend`, or of HAUSTRA_BACKEND without one.

    `auto` is the first of cuda, mps, wgpu (in a training, on hardware) and cpu that is available,
    and `why` gives the reason.

    Args:
        flag: The wish.
        for_training: PyTorch's models run on wgpu in a training only.

    Raises:
        HaustraError: The wanted backend is not available; the message says how to get it. There is
            no fallback.
    """
    wanted = wanted_backend(flag)
    if wanted == "auto":
        return _choose_best(for_training=for_training)
    if wanted == "wgpu" and not for_training:
        raise HaustraError(
            f"{option('backend', 'wgpu')}: checkpoints run on WebGPU in a training only; run "
            "`haustra export` and use the .onnx file, which ONNX Runtime computes on WebGPU, or "
            f"use {option('backend', 'cpu')}"
        )
    return Backend(name=wanted, hardware=_FIND[wanted]())


def resolve_precision(
    wanted: Literal["auto", "float32", "bfloat16"], *, backend: BackendName
) -> Precision:
    """Return the precision of a training; auto is bfloat16 where the hardware computes in it.

    Raises:
        HaustraError: bfloat16 was asked for with wgpu, whose shaders have no such type.
    """
    if backend == "wgpu":
        if wanted == "bfloat16":
            raise HaustraError(
                f"{option('precision', 'bfloat16')} with {option('backend', 'wgpu')}: WebGPU has "
                "no such type; expected float32 or auto"
            )
        return "float32"
    if wanted != "auto":
        return wanted
    if backend == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if has_bfloat16 else "float32"
    if backend == "mps":
        return "bfloat16" if torch.backends.mps.is_macos_or_newer(14, 0) else "float32"
    return resolve_cpu_precision()
