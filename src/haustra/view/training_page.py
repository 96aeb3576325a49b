"""The data of the page at /training: metrics and gallery of a training's run folder."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        weights = config.detector_weights
        beside = run_folder_of(weights) if weights is not None else None
        return cls(folder=config.training or beside)

    def values(self) -> dict[str, Any]:
        """Return the epochs so far as JSON values."""
        epochs = [_read_object(line) for line in (self._read(METRICS_NAME) or b"").splitlines()]
        changed_ns = self._changed_ns(METRICS_NAME)
        return {
            "folder": self.folder.name if self.folder is not None else None,
            "exists": self.folder is not None and self.folder.is_dir(),
            "epochs": [epoch for epoch in epochs if epoch],
            "num_epochs": _read_object(self._read(CONFIG_NAME) or b"").get("epochs"),
            "seconds_ago": None if changed_ns is None else round(time.time() - changed_ns / 1e9, 1),
            "gallery": self._changed_ns(GALLERY_NAME),
        }

    def gallery(self) -> bytes | None:
        """Return the PNG of the validation images with boxes; None if it does not exist."""
        return self._read(GALLERY_NAME)

    def _read(self, name: str) -> bytes | None:
        with suppress(OSError):  # not written yet
            return (self.folder / name).read_bytes() if self.folder else None
        return None

    def _changed_ns(self, name: str) -> int | None:
        with suppress(OSError):
            return (self.folder / name).stat().st_mtime_ns if self.folder else None
        return None


def _read_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the text is half-written or something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
