"""WebGPU adapters, and the device on which tinygrad computes.

Dawn, WebGPU's implementation in Chromium, comes with the package `dawn-python`; tinygrad calls it.
Three environment variables choose the adapter, as for programs that use wgpu:
WGPU_ADAPTER_NAME (a part of its name), WGPU_BACKEND (vulkan, metal, dx12 or gl) and WGPU_POWER_PREF
(high or low).

tinygrad cannot be given an adapter, and it builds every pipeline again at each call, which is ten
times slower than keeping them. `open_device` therefore replaces tinygrad's adapter, program and
allocator by ours before it opens the device.
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

from haustra.core.errors import HaustraError, MissingExtraError, option

DEVICE = "WEBGPU"  # name of the device in tinygrad
NAME_VARIABLE, BACKEND_VARIABLE = "WGPU_ADAPTER_NAME", "WGPU_BACKEND"
GRAPHICS_BACKENDS = {"vulkan": "Vulkan", "metal": "Metal", "dx12": "D3D12", "gl": "OpenGLES"}
"""Values of WGPU_BACKEND, and their names in Dawn."""

STDERR = 2  # file descriptor of standard error, to which C++ libraries write
LIBRARY_VARIABLE = "WEBGPU_PATH"
"""Environment variable with the path of Dawn's library, which tinygrad reads."""

NO_ADAPTER = (
    "no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on Debian without a GPU: apt "
    f"install libvulkan1 mesa-vulkan-drivers), or use {option('backend', 'cpu')}"
)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A graphics card or a software renderer that WebGPU can use."""

    name: str
    vendor: str  # name of the vendor in WebGPU, or its PCI number
    driver: str  # description by the driver
    graphics: str  # graphics interface: vulkan, metal, dx12 or gl
    kind: str  # kind of the card: discrete, integrated, software or unknown
    memory_bytes: int | None  # size of its largest heap; None where the driver does not report it
    handle: Any  # adapter object of Dawn

    @property
    def is_software(self) -> bool:
        """True where the CPU emulates a graphics card."""
        return self.kind == "software"

    def __str__(self) -> str:
        note = ", software renderer" if self.is_software else ""
        return f"{self.name} ({self.graphics}{note})"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        names = ("name", "vendor", "driver", "graphics", "kind", "is_software", "memory_bytes")
        return {name: getattr(self, name) for name in names}


def missing_package() -> str | None:
    """Return which package of the extra `wgpu` is not installed, or None."""
    for module, package in (("tinygrad", "tinygrad"), ("pydawn", "dawn-python")):
        if find_spec(module) is None:
            return package
    return None


def _library_name() -> str:
    is_arm = platform.machine().lower() in {"aarch64", "arm64"}
    if sys.platform == "win32":
        return "libwebgpu_dawn.dll"
    if sys.platform == "darwin":
        return f"libwebgpu_dawn_{'arm64' if is_arm else 'x86_64'}.dylib"
    return f"libwebgpu_dawn_{'aarch64' if is_arm else 'x86_64'}.so"


@functools.cache
def _dawn() -> Any:
    """Import tinygrad's bindings of Dawn."""
    package = missing_package()
    if package is not None:
        raise MissingExtraError(package, extra="wgpu", needed_for=option("backend", "wgpu"))
    if LIBRARY_VARIABLE not in os.environ:
        package_folder = Path(find_spec("pydawn").origin).parent  # type: ignore[union-attr, arg-type]
        os.environ[LIBRARY_VARIABLE] = str(package_folder / "lib" / _library_name())
    try:
        from tinygrad.runtime import ops_webgpu
    except (OSError, AttributeError) as error:
        raise HaustraError(
            f"{option('backend', 'wgpu')}: {os.environ[LIBRARY_VARIABLE]} does not load "
            f"({error}); use {option('backend', 'cpu')}"
        ) from None
    return ops_webgpu


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dawn, Mesa and the Vulkan loader; our own one-line error says what is missing."""
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
    # Without the feature `heaps` stays empty.
    if webgpu.wgpuAdapterHasFeature(handle, webgpu.WGPUFeatureName_AdapterPropertiesMemoryHeaps):
        chained = ctypes.POINTER(webgpu.WGPUChainedStructOut)
        info.nextInChain = ctypes.cast(ctypes.pointer(heaps), chained)
    webgpu.wgpuAdapterGetInfo(handle, info)
    graphics = webgpu.enum_WGPUBackendType[info.backendType].removeprefix("WGPUBackendType_")
    names = {theirs: ours for ours, theirs in GRAPHICS_BACKENDS.items()} | {"OpenGL": "gl"}
    kinds = {
        webgpu.WGPUAdapterType_DiscreteGPU: "discrete",
        webgpu.WGPUAdapterType_IntegratedGPU: "integrated",
        webgpu.WGPUAdapterType_CPU: "software",
    }
    sizes = [heaps.heapInfo[index].size for index in range(heaps.heapCount)]
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
    """Return the adapters of this machine, hardware before software; none without a driver.

    Dawn returns one adapter per request, so each graphics interface is asked for the fast, the
    low-power and the software adapter. Two equal cards give one entry. OpenGL is asked for only
    with WGPU_BACKEND=gl, since every other interface is better.
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
                level = "Compatibility" if ours == "gl" else "Core"
                options = webgpu.WGPURequestAdapterOptions(
                    powerPreference=power,
                    backendType=getattr(webgpu, f"WGPUBackendType_{theirs}"),
                    forceFallbackAdapter=fallback,
                    featureLevel=getattr(webgpu, f"WGPUFeatureLevel_{level}"),
                )
                try:
                    handle = dawn.InstanceRequestAdapter(dawn.instance, options)
                except RuntimeError:
                    continue  # no adapter of that kind
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
    """Return the adapter that the environment asks for; by default the fastest hardware."""
    graphics = _choice(BACKEND_VARIABLE, tuple(GRAPHICS_BACKENDS))
    power = _choice("WGPU_POWER_PREF", ("high", "low"))
    name = os.environ.get(NAME_VARIABLE, "")
    if not adapters:
        raise HaustraError(f"{option('backend', 'wgpu')}: {NO_ADAPTER}")
    fitting = [
        adapter
        for adapter in adapters
        if (graphics is None or adapter.graphics == graphics)
        and name.lower() in adapter.name.lower()
    ]
    if not fitting:
        wishes = {NAME_VARIABLE: name, BACKEND_VARIABLE: graphics}
        asked = " and ".join(f"{variable}={wish}" for variable, wish in wishes.items() if wish)
        listed = "; ".join(str(adapter) for adapter in adapters)
        raise HaustraError(f"{asked} matches no WebGPU adapter; expected one of: {listed}")
    if power == "low":
        fitting.sort(key=lambda adapter: adapter.kind != "integrated")
    return fitting[0]


@functools.cache
def open_device() -> Adapter:
    """Open the chosen adapter as tinygrad's device, once in a process."""
    adapter = choose_adapter(list_adapters())
    dawn = _dawn()
    from tinygrad.device import Device

    from haustra.webgpu.kernels import build_allocator, build_program

    dawn.InstanceRequestAdapter = lambda *_: adapter.handle
    dawn.WebGPUProgram = build_program(dawn)
    dawn.WebGpuAllocator = build_allocator(dawn)
    try:
        with _quiet():
            Device[DEVICE]
    except RuntimeError as error:
        raise HaustraError(
            f"{option('backend', 'wgpu')}: {adapter} does not open ({error}); choose another with "
            f"{NAME_VARIABLE}, or use {option('backend', 'cpu')}"
        ) from None
    return adapter
