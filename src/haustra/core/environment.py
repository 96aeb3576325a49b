"""What numbers were made on and with, so that they can be explained later. Needs no torch."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from haustra import __version__

PACKAGES = (
    "torch",
    "tinygrad",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
    "safetensors",
    "pyarrow",
)
"""What decides the numbers of a training or an evaluation."""


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanliness of the repository that a folder lies in; None without one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "has_changes": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def describe_environment() -> dict[str, Any]:
    """Return versions, machine and git state (of the working folder) as JSON values."""
    return {
        "haustra_version": __version__,
        "python": platform.python_version(),
        "packages": {package: _version_of(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "git": git_state(Path.cwd()),
        "command": sys.argv,
    }
