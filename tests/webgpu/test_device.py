import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from haustra.core.errors import HaustraError, MissingExtraError
from haustra.webgpu import device as webgpu
from haustra.webgpu.device import choose_adapter
from scenes import write_warehouse
from wgpu_adapters import card, needs_adapter, software

FAST, FRUGAL = card("GeForce RTX 5090"), card("Iris Xe", kind="integrated")
ALL = (FAST, FRUGAL, card("GeForce RTX 5090", graphics="dx12"), software())


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WGPU_ADAPTER_NAME", "WGPU_BACKEND", "WGPU_POWER_PREF"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        ({}, FAST),
        ({"WGPU_POWER_PREF": "high"}, FAST),
        ({"WGPU_POWER_PREF": "low"}, FRUGAL),
        ({"WGPU_ADAPTER_NAME": "iris"}, FRUGAL),
        ({"WGPU_ADAPTER_NAME": "LLVM"}, ALL[3]),
        ({"WGPU_BACKEND": "dx12"}, ALL[2]),
        ({"WGPU_ADAPTER_NAME": "geforce", "WGPU_BACKEND": "Vulkan"}, FAST),
    ],
)
def test_the_environment_chooses_the_adapter(
    wishes: dict[str, str], chosen: webgpu.Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wishes.items():
        monkeypatch.setenv(name, value)
    assert choose_adapter(ALL) is chosen


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            {"WGPU_ADAPTER_NAME": "Arc"},
            "WGPU_ADAPTER_NAME=Arc matches no WebGPU adapter; expected one of: Iris Xe (vulkan); "
            "llvmpipe (vulkan, software renderer)",
        ),
        (
            {"WGPU_ADAPTER_NAME": "Iris", "WGPU_BACKEND": "metal"},
            "WGPU_ADAPTER_NAME=Iris and WGPU_BACKEND=metal matches no WebGPU adapter; expected one "
            "of: Iris Xe (vulkan); llvmpipe (vulkan, software renderer)",
        ),
        (
            {"WGPU_BACKEND": "opengl"},
            "WGPU_BACKEND=opengl: expected one of vulkan, metal, dx12, gl",
        ),
        ({"WGPU_POWER_PREF": "most"}, "WGPU_POWER_PREF=most: expected one of high, low"),
    ],
)
def test_a_wish_that_nothing_meets_is_an_error_that_lists_what_there_is(
    wishes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wishes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HaustraError) as caught:
        choose_adapter((FRUGAL, software()))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("module", "package"), [("tinygrad", "tinygrad"), ("pydawn", "dawn-python")]
)
def test_without_the_extra_the_message_names_it(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_spec
    monkeypatch.setattr(webgpu, "find_spec", lambda name: None if name == module else real(name))
    webgpu.list_adapters.cache_clear()
    webgpu._dawn.cache_clear()
    with pytest.raises(MissingExtraError) as caught:
        webgpu.list_adapters()
    assert str(caught.value) == (
        f"backend='wgpu' needs the package '{package}', which is not installed; run: pip install "
        "'haustra[wgpu]'"
    )


def haustra(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "haustra", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


def test_without_a_driver_training_ends_with_one_line_and_never_on_the_cpu(
    tmp_path: Path,
) -> None:
    manifest = write_warehouse(tmp_path)
    done = haustra(
        "train",
        f"--manifest={manifest}",
        "--backend=wgpu",
        f"--checkpoint-out={tmp_path}/new/w.bin",
        VK_DRIVER_FILES="/nonexistent.json",
        VK_ICD_FILENAMES="/nonexistent.json",
    )
    assert done.returncode == 2
    assert done.stderr == (
        "haustra: --backend wgpu: no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on "
        "Debian without a GPU: apt install libvulkan1 mesa-vulkan-drivers), or use --backend "
        "cpu\n"
    )
    assert not (tmp_path / "new").exists()


@needs_adapter
def test_a_wrong_adapter_name_is_one_line_that_lists_the_adapters(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    done = haustra(
        "train", f"--manifest={manifest}", "--backend=wgpu", WGPU_ADAPTER_NAME="No Such Card"
    )
    assert done.returncode == 2
    listed = "; ".join(str(adapter) for adapter in webgpu.list_adapters())
    assert done.stderr == (
        "haustra: WGPU_ADAPTER_NAME=No Such Card matches no WebGPU adapter; expected one of: "
        f"{listed}\n"
    )


@needs_adapter
def test_backends_lists_the_adapters_with_driver_and_memory() -> None:
    done = haustra("backends", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [state["name"] for state in report["backends"]] == ["cpu", "wgpu", "cuda", "mps"]
    adapters = webgpu.list_adapters()
    assert [entry["name"] for entry in report["adapters"]] == [a.name for a in adapters]
    for entry in report["adapters"]:
        assert entry["driver"]
        assert entry["vendor"]
        assert entry["is_software"] == (entry["kind"] == "software")
        assert entry["memory_bytes"] is None or entry["memory_bytes"] > 2**20
    assert report["onnx"]["cpu"] is True


def test_backends_says_how_to_get_what_is_missing() -> None:
    done = haustra("backends", VK_DRIVER_FILES="/none.json", VK_ICD_FILENAMES="/none.json")
    assert done.returncode == 0, done.stderr
    assert (
        "wgpu     missing: no WebGPU adapter; install a driver of Vulkan 1.1 or newer (on Debian "
        "without a GPU: apt install libvulkan1 mesa-vulkan-drivers)\n"
    ) in done.stdout
