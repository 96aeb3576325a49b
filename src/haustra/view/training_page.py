"""The data of the page at /training: metrics and gallery of a training's run folder."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError, option
from haustra.core.paths import run_folder_of
from haustra.view.config import ViewConfig

METRICS_NAME, GALLERY_NAME, CONFIG_NAME = "metrics.jsonl", "gallery.png", "config.json"


@dataclass(frozen=True, kw_only=True)
class TrainingFolder:
    """A training's run folder, read again for each request, since the training may go on."""

    folder: Path | None

    @classmethod
    def beside(cls, config: ViewConfig) -> "TrainingFolder":
        """Return the folder that the config names, or the one beside the weights."""
        weights, named = config.detector_weights, config.training
        if named is not None:
            _check(named)
        beside = run_folder_of(weights) if weights is not None else None
        return cls(folder=named or beside)

    def values(self) -> dict[str, Any]:
        """Return the epochs so far as JSON values."""
        epochs = [_read_object(line) for line in (self._read(METRICS_NAME) or b"").splitlines()]
        changed_ns = self._changed_ns(METRICS_NAME)
        return {
            "folder": self.folder.name if self.folder is not None else None,
            "exists": self.folder is not None and self.folder.is_dir(),
            "epochs": [epoch for epoch in epochs if epoch],
            "num_epochs": self._config().get("epochs"),
            "seconds_ago": None if changed_ns is None else round(time.time() - changed_ns / 1e9, 1),
            "gallery": self._changed_ns(GALLERY_NAME),
        }

    def gallery(self) -> bytes | None:
        """Return the PNG of the validation images with boxes; None if it does not exist."""
        return self._read(GALLERY_NAME)

    def _config(self) -> dict[str, Any]:
        return _read_object(self._read(CONFIG_NAME) or b"")

    def _read(self, name: str) -> bytes | None:
        with suppress(OSError):  # not written yet
            return (self.folder / name).read_bytes() if self.folder else None
        return None

    def _changed_ns(self, name: str) -> int | None:
        with suppress(OSError):
            return (self.folder / name).stat().st_mtime_ns if self.folder else None
        return None


def _check(folder: Path) -> None:
    """Check that a folder is the run folder of a training."""
    if "epochs" in TrainingFolder(folder=folder)._config():
        return
    if folder.is_dir():
        found = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
        problem = f"it holds no settings of a training ({CONFIG_NAME})"
    else:
        found = [beside] if (beside := run_folder_of(folder)).is_dir() else []
        problem = "it is a file" if folder.exists() else "it does not exist"
    remedy = f"; did you mean {found[0]}?" if found else ""
    raise HaustraError(
        f"{option('training', folder)}: expected the run folder of a training, such as "
        f"checkpoints/tinydet.bin.run; {problem}{remedy}"
    )


def _read_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the text is half-written or something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
