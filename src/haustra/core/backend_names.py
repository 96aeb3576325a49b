"""The names of what can compute, and the default among them. Imports nothing heavy."""

import os
from typing import Literal, get_args

from haustra.core.errors import HaustraError

BackendName = Literal["ndarray", "wgpu", "cuda", "mps"]
"""ndarray is PyTorch on the CPU, wgpu tinygrad on WebGPU, cuda and mps PyTorch on a GPU."""
BackendFlag = Literal["ndarray", "wgpu", "cuda", "mps", "auto"]
"""What `--backend` takes."""

DEFAULT: BackendFlag = "ndarray"
ENVIRONMENT_VARIABLE = "HAUSTRA_BACKEND"


def wanted_backend(flag: BackendFlag | None) -> BackendFlag:
    """Return what `--backend` says, or else HAUSTRA_BACKEND, or else ndarray.

    Raises:
        HaustraError: HAUSTRA_BACKEND holds no such name.
    """
    if flag is not None:
        return flag
    value = os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT
    for name in get_args(BackendFlag):
        if value == name:
            return name  # type: ignore[no-any-return]
    raise HaustraError(
        f"{ENVIRONMENT_VARIABLE}={value}: expected one of {', '.join(get_args(BackendFlag))}"
    )
