"""WebGPU adapters for tests: made-up ones, and the mark of tests that need a real one."""

import functools

import pytest

from haustra.core.errors import HaustraError
from haustra.webgpu import device as webgpu


def card(name: str, *, graphics: str = "vulkan", kind: str = "discrete") -> webgpu.Adapter:
    return webgpu.Adapter(
        name=name,
        vendor="amd",
        driver="a driver",
        graphics=graphics,
        kind=kind,
        memory_bytes=8 * 2**30,
        handle=None,
    )


def software() -> webgpu.Adapter:
    return card("llvmpipe", kind="software")


@functools.cache
def _why_no_adapter() -> str | None:
    try:
        return None if webgpu.list_adapters() else "no Vulkan driver here; .ci/run installs one"
    except HaustraError as error:
        return str(error)


needs_adapter = pytest.mark.skipif(_why_no_adapter() is not None, reason=_why_no_adapter() or "")
