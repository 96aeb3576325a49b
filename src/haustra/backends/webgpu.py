"""WebGPU adapters, and the device on which tinygrad computes.

Dawn, WebGPU's implementation in Chromium, comes with the package `dawn-python`; tinygrad calls it.
Three environment variables choose the adapter, as for programs that use wgpu:
WGPU_ADAPTER_NAME (a part of its name), WGPU_BACKEND (vulkan, metal, dx12 or gl) and WGPU_POWER_PREF
(high or low).

tinygrad has no place to hand it an adapter, and builds every pipeline anew at each call, ten times
slower than keeping them: `open_device` puts our adapter, program and allocator in the place of
tinygrad's own, before it opens the device.
"""

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError, MissingExtraError

DEVICE = "WEBGPU"
"""tinygrad's name of the device."""
NAME_VARIABLE, BACKEND_VARIABLE, POWER_VARIABLE = (
    "WGPU_ADAPTER_NAME",
    "WGPU_BACKEND",
    "WGPU_POWER_PREF",
)
GRAPHICS_BACKENDS = {
    "vulkan": "Vulkan",
    "metal": "Metal",
    "dx12": "D3D12",
    "gl": "OpenGLES",
}
"""Values of WGPU_BACKEND, and what Dawn calls them."""
POWER_PREFERENCES = ("high", "low")
STDERR = 2
"""File descriptor of the standard error of libraries that know nothing of Python."""
LIBRARY_VARIABLE = "WEBGPU_PATH"
"""Where tinygrad looks for Dawn."""

NO_ADAPTER = (
    "no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on Debian without a GPU: apt "
    "install libvulkan1 mesa-vulkan-drivers), or use --backend ndarray"
)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A graphics card, or a program that plays one, as WebGPU sees it."""

    name: str
    vendor: str
    """As WebGPU names it, or its PCI number."""
    driver: str
    """The driver's own description."""
    graphics: str
    """vulkan, metal, dx12 or gl."""
    kind: str
    """discrete, integrated, software or unknown."""
    memory_bytes: int | None
    """Of its largest heap; None where the driver does not tell."""
    handle: Any
    """Dawn's."""

    @property
    def is_software(self) -> bool:
        """Whether the CPU plays the graphics card."""
        return self.kind == "software"

    def __str__(self) -> str:
        note = ", software renderer" if self.is_software else ""
        return f"{self.name} ({self.graphics}{note})"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "vendor": self.vendor,
            "driver": self.driver,
            "graphics": self.graphics,
            "kind": self.kind,
            "is_software": self.is_software,
            "memory_bytes": self.memory_bytes,
        }


def missing_package() -> str | None:
    """Return which package of the extra `wgpu` is not installed, or None."""
    for module, package in (("tinygrad", "tinygrad"), ("pydawn", "dawn-python")):
        if find_spec(module) is None:
            return package
    return None


def _library_name() -> str:
    machine = platform.machine().lower()
    if sys.platform == "win32":
        return "libwebgpu_dawn.dll"
    if sys.platform == "darwin":
        return f"libwebgpu_dawn_{'arm64' if machine == 'arm64' else 'x86_64'}.dylib"
    return f"libwebgpu_dawn_{'aarch64' if machine in {'aarch64', 'arm64'} else 'x86_64'}.so"


@functools.cache
def _dawn() -> Any:
    """Import tinygrad's bindings of Dawn.

    Raises:
        MissingExtraError: a package is not installed.
        HaustraError: Dawn's library does not load here.
    """
    package = missing_package()
    if package is not None:
        raise MissingExtraError(package, extra="wgpu", needed_for="--backend wgpu")
    if LIBRARY_VARIABLE not in os.environ:
        found = find_spec("pydawn")
        if found is None or found.origin is None:
            raise AssertionError("missing_package has found it")
        os.environ[LIBRARY_VARIABLE] = str(Path(found.origin).parent / "lib" / _library_name())
    try:
        from tinygrad.runtime import ops_webgpu
    except (OSError, AttributeError) as error:
        raise HaustraError(
            f"--backend wgpu: {os.environ[LIBRARY_VARIABLE]} does not load ({error}); use "
            "--backend ndarray"
        ) from None
    return ops_webgpu


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dawn, Mesa and the Vulkan loader from printing what they miss: we say it in one line."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(silence)


def _read_adapter(handle: Any) -> Adapter:
    dawn = _dawn()
    webgpu = dawn.webgpu
    heaps = webgpu.WGPUAdapterPropertiesMemoryHeaps()
    heaps.chain.sType = webgpu.WGPUSType_AdapterPropertiesMemoryHeaps
    info = webgpu.WGPUAdapterInfo()
    tells_memory = webgpu.wgpuAdapterHasFeature(
        handle, webgpu.WGPUFeatureName_AdapterPropertiesMemoryHeaps
    )
    if tells_memory:
        info.nextInChain = ctypes.cast(
            ctypes.pointer(heaps), ctypes.POINTER(webgpu.WGPUChainedStructOut)
        )
    webgpu.wgpuAdapterGetInfo(handle, info)
    graphics = webgpu.enum_WGPUBackendType[info.backendType].removeprefix("WGPUBackendType_")
    names = {theirs: ours for ours, theirs in GRAPHICS_BACKENDS.items()} | {"OpenGL": "gl"}
    kinds = {
        webgpu.WGPUAdapterType_DiscreteGPU: "discrete",
        webgpu.WGPUAdapterType_IntegratedGPU: "integrated",
        webgpu.WGPUAdapterType_CPU: "software",
    }
    sizes = [heaps.heapInfo[index].size for index in range(heaps.heapCount)] if tells_memory else []
    return Adapter(
        name=dawn.from_wgpu_str(info.device),
        vendor=dawn.from_wgpu_str(info.vendor) or f"PCI {info.vendorID:#06x}",
        driver=dawn.from_wgpu_str(info.description),
        graphics=names.get(graphics, graphics.lower()),
        kind=kinds.get(info.adapterType, "unknown"),
        memory_bytes=max(sizes, default=None),
        handle=handle,
    )


@functools.cache
def list_adapters() -> tuple[Adapter, ...]:
    """Return the adapters of this machine, hardware before software; none where there is no driver.

    Dawn gives one adapter a question, so it is asked for each graphics backend, for the fast one,
    the frugal one and the software one. Two equal cards are one entry. OpenGL is asked for only
    with WGPU_BACKEND=gl: every other backend is better.

    Raises:
        HaustraError: the extra is not installed, or Dawn does not load.
    """
    dawn = _dawn()
    webgpu = dawn.webgpu
    found: dict[tuple[str, str, str], Adapter] = {}
    powers = (webgpu.WGPUPowerPreference_HighPerformance, webgpu.WGPUPowerPreference_LowPower)
    wants_gl = _choice(BACKEND_VARIABLE, tuple(GRAPHICS_BACKENDS)) == "gl"
    with _quiet():
        for ours, theirs in GRAPHICS_BACKENDS.items():
            if ours == "gl" and not wants_gl:
                continue
            for power, fallback in ((powers[0], 0), (powers[1], 0), (powers[0], 1)):
                options = webgpu.WGPURequestAdapterOptions(
                    powerPreference=power,
                    backendType=getattr(webgpu, f"WGPUBackendType_{theirs}"),
                    forceFallbackAdapter=fallback,
                    featureLevel=webgpu.WGPUFeatureLevel_Compatibility
                    if ours == "gl"
                    else webgpu.WGPUFeatureLevel_Core,
                )
                try:
                    handle = dawn.InstanceRequestAdapter(dawn.instance, options)
                except RuntimeError:
                    continue  # this backend has none of that kind
                adapter = _read_adapter(handle)
                found.setdefault((adapter.name, adapter.driver, adapter.graphics), adapter)
    # Vulkan is the best tested of Dawn's backends on Linux; the order above is kept within a kind.
    rank = {"discrete": 0, "integrated": 1, "unknown": 2, "software": 3}
    return tuple(sorted(found.values(), key=lambda adapter: rank[adapter.kind]))


def _choice(variable: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable, "").lower()
    if not value:
        return None
    if value not in allowed:
        raise HaustraError(f"{variable}={value}: expected one of {', '.join(allowed)}")
    return value


def choose_adapter(adapters: tuple[Adapter, ...]) -> Adapter:
    """Return the adapter that the environment asks for; by default hardware, the fast one first.

    Raises:
        HaustraError: there is none, or none that fits; it lists those that there are.
    """
    graphics = _choice(BACKEND_VARIABLE, tuple(GRAPHICS_BACKENDS))
    power = _choice(POWER_VARIABLE, POWER_PREFERENCES)
    name = os.environ.get(NAME_VARIABLE, "")
    if not adapters:
        raise HaustraError(f"--backend wgpu: {NO_ADAPTER}")
    fitting = [
        adapter
        for adapter in adapters
        if (graphics is None or adapter.graphics == graphics)
        and name.lower() in adapter.name.lower()
    ]
    if not fitting:
        asked = " and ".join(
            f"{variable}={value}"
            for variable, value in ((NAME_VARIABLE, name), (BACKEND_VARIABLE, graphics))
            if value
        )
        listed = "; ".join(str(adapter) for adapter in adapters)
        raise HaustraError(f"{asked} matches no WebGPU adapter; expected one of: {listed}")
    if power == "low":
        integrated = [adapter for adapter in fitting if adapter.kind == "integrated"]
        fitting = integrated or fitting
    return fitting[0]


@functools.cache
def open_device() -> Adapter:
    """Open the chosen adapter as tinygrad's device, once in a process.

    Raises:
        HaustraError: no adapter fits, or it does not open.
    """
    adapter = choose_adapter(list_adapters())
    dawn = _dawn()
    from tinygrad.device import Device

    from haustra.backends.webgpu_program import build_allocator, build_program

    dawn.InstanceRequestAdapter = lambda *_: adapter.handle
    dawn.WebGPUProgram = build_program(dawn)
    dawn.WebGpuAllocator = build_allocator(dawn)
    try:
        with _quiet():
            Device[DEVICE]
    except RuntimeError as error:
        raise HaustraError(
            f"--backend wgpu: {adapter} does not open ({error}); choose another with "
            f"{NAME_VARIABLE}, or use --backend ndarray"
        ) from None
    return adapter
