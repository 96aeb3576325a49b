"""Description of the machine, versions and git state behind a result."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from haustra import __version__

PACKAGES = (
    *("torch", "tinygrad", "onnxruntime", "numpy"),
    *("opencv-python-headless", "safetensors", "pyarrow"),
)
"""Packages that affect the numbers of a training or an evaluation."""


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


def _git(*arguments: str) -> str | None:
    """Return the output of git in the working folder, or None without git or a repository."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state() -> dict[str, Any] | None:
    if (commit := _git("rev-parse", "HEAD")) is None:
        return None
    branch = _git("rev-parse", "--abbrev-ref", "HEAD")
    has_changes = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"commit": commit, "branch": branch, "has_changes": has_changes}


def describe_environment() -> dict[str, Any]:
    """Return versions, machine and git state of the working folder as JSON values."""
    return {
        "haustra_version": __version__,
        "python": platform.python_version(),
        "packages": {package: _version_of(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "git": _git_state(),
        "command": sys.argv,
    }
