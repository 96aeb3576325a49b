"""haustra trains polyp detectors from colonoscopy captures and shows what they see.

The functions of `haustra.api` are the public Python API. They are imported on first use, so that
`import haustra` is fast and needs no optional package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haustra.api import build_warehouse, evaluate, export, load, open_warehouse, simulate, train
    from haustra.core.errors import HaustraError

__version__ = "0.1.0"

__all__ = [
    "HaustraError",
    "__version__",
    "build_warehouse",
    "evaluate",
    "export",
    "load",
    "open_warehouse",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'haustra' has no attribute {name!r}")
    module = "haustra.core.errors" if name == "HaustraError" else "haustra.api"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
