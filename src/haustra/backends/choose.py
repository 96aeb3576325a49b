"""Which backend computes: the one that was asked for, or the best that this machine has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from haustra.backends import webgpu
from haustra.core.backend_names import BackendFlag, BackendName, wanted_backend
from haustra.core.errors import HaustraError
from haustra.models.predict import Precision, resolve_cpu_precision


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What computes."""

    name: BackendName
    hardware: str
    """The card, or the CPU."""
    why: str = ""
    """Why `auto` took it; empty where it was asked for."""

    def __str__(self) -> str:
        return f"backend {self.name}: {self.hardware}" + (
            f" (auto: {self.why})" if self.why else ""
        )

    @property
    def device(self) -> torch.device:
        """Where PyTorch's tensors live; the CPU also for wgpu, whose own are tinygrad's."""
        return torch.device(self.name if self.name in {"cuda", "mps"} else "cpu")


class _Missing(Exception):  # noqa: N818 no error until somebody asked for it
    """Why a backend is not to be had: what is missing, and how to get it."""

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _find_cuda() -> str:
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise _Missing(
            f"this PyTorch ({torch.__version__}) is built without CUDA",
            remedy="install one with it (https://pytorch.org/get-started/locally)",
        )
    if not torch.cuda.is_available():
        raise _Missing("no NVIDIA GPU, or no driver for it", remedy="look at `nvidia-smi`")
    return torch.cuda.get_device_name()


def _find_mps() -> str:
    if not torch.backends.mps.is_built():
        raise _Missing(
            "this PyTorch is built without Metal", remedy="it takes a Mac with Apple silicon"
        )
    if not torch.backends.mps.is_available():
        raise _Missing("no GPU that Metal can use", remedy="it takes macOS 12.3 or newer")
    return "Apple GPU (Metal)"


def _find_wgpu() -> str:
    """Return the adapter's name, also that of a software renderer.

    Raises:
        HaustraError: the extra or an adapter is missing.
    """
    return str(webgpu.choose_adapter(webgpu.list_adapters()))


def _find_ndarray() -> str:
    return f"CPU, {torch.get_num_threads()} threads"


_FIND: dict[BackendName, Callable[[], str]] = {
    "cuda": _find_cuda,
    "mps": _find_mps,
    "wgpu": _find_wgpu,
    "ndarray": _find_ndarray,
}
"""In the order of `auto`."""


def _choose_best() -> Backend:
    passed_over = []
    for name, find in _FIND.items():
        try:
            if name == "wgpu":
                if package := webgpu.missing_package():
                    passed_over.append(f"wgpu: the package {package} is not installed")
                    continue
                adapter = webgpu.choose_adapter(webgpu.list_adapters())
                if adapter.is_software:
                    passed_over.append(f"wgpu: {adapter.name} is a software renderer")
                    continue
            hardware = find()
        except _Missing as missing:
            passed_over.append(f"{name}: {missing}")
        except HaustraError as error:
            passed_over.append(str(error).removeprefix("--backend ").partition(";")[0])
        else:
            return Backend(
                name=name,
                hardware=hardware,
                why="; ".join(passed_over) or "the first choice is here",
            )
    raise AssertionError("ndarray is always there")


def choose_backend(flag: BackendFlag | None) -> Backend:
    """Return the backend of `--backend`, or of HAUSTRA_BACKEND without one.

    `auto` is the first of cuda, mps, wgpu (on hardware) and ndarray that is here, and says why.

    Raises:
        HaustraError: what was asked for is not here, and how to get it; there is no fallback.
    """
    wanted = wanted_backend(flag)
    if wanted == "auto":
        return _choose_best()
    try:
        return Backend(name=wanted, hardware=_FIND[wanted]())
    except _Missing as missing:
        raise HaustraError(
            f"--backend {wanted}: {missing}; {missing.remedy}, or use --backend ndarray"
        ) from None


def resolve_precision(
    wanted: Literal["auto", "float32", "bfloat16"], *, backend: BackendName
) -> Precision:
    """Return the precision to train in; auto is bfloat16 where the hardware computes in it.

    Raises:
        HaustraError: bfloat16 with wgpu, whose shaders have no such type.
    """
    if backend == "wgpu":
        if wanted == "bfloat16":
            raise HaustraError(
                "--precision bfloat16 with --backend wgpu: WebGPU has no such type; expected "
                "float32 or auto"
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
