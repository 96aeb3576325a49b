"""The names of the backends and the default one. Imports nothing heavy."""

import os
from typing import Literal, get_args

from haustra.core.errors import HaustraError, option

BackendName = Literal["cpu", "wgpu", "cuda", "mps"]
"""PyTorch on the CPU, tinygrad on WebGPU (training only), PyTorch on an NVIDIA or Apple GPU."""
BackendFlag = Literal["cpu", "wgpu", "cuda", "mps", "auto", "ndarray"]
"""Values of `--backend`. `ndarray` is an alias of `cpu`, known from CortenForge."""

DEFAULT: BackendName = "cpu"
ENVIRONMENT_VARIABLE = "HAUSTRA_BACKEND"


def without_alias(name: str) -> str:
    """Return a backend's name as haustra stores and prints it: `cpu` for `ndarray`."""
    return "cpu" if name == "ndarray" else name


def wanted_backend(flag: BackendFlag | None) -> Literal[BackendName, "auto"]:
    """Return the backend of `--backend`, or else of HAUSTRA_BACKEND, or else `cpu`."""
    value = flag or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT
    if value not in get_args(BackendFlag):
        shown = option("backend", flag) if flag else f"{ENVIRONMENT_VARIABLE}={value}"
        raise HaustraError(f"{shown}: expected one of {', '.join(get_args(BackendFlag))}")
    return without_alias(value)  # type: ignore[return-value]
