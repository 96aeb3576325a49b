"""What the page at /training shows: the metrics, curves and gallery of a run folder of training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.view.config import ViewConfig

METRICS_NAME, GALLERY_NAME = "metrics.jsonl", "gallery.png"


@dataclass(frozen=True, kw_only=True)
class TrainingFolder:
    """A training's run folder, read again for each request, since the training may go on."""

    folder: Path | None

    @classmethod
    def beside(cls, config: ViewConfig) -> "TrainingFolder":
        """Return the folder that the config names, or the one beside the weights."""
        weights = config.detector_weights
        beside = weights.with_suffix(".run") if weights is not None else None
        return cls(folder=config.training or beside)

    def values(self) -> dict[str, Any]:
        """Return the epochs so far as JSON values."""
        epochs: list[dict[str, Any]] = []
        if self.folder is not None and (self.folder / METRICS_NAME).is_file():
            for line in (self.folder / METRICS_NAME).read_text(errors="replace").splitlines():
                try:
                    value = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line may be half-written
                if isinstance(value, dict):
                    epochs.append(value)
        return {
            "folder": self.folder.name if self.folder is not None else None,
            "epochs": epochs,
            "gallery": self.gallery_stamp(),
        }

    def gallery_stamp(self) -> int | None:
        """Return when the gallery was written, in nanoseconds; None if there is none."""
        try:
            return None if self.folder is None else (self.folder / GALLERY_NAME).stat().st_mtime_ns
        except OSError:
            return None

    def gallery(self) -> bytes | None:
        """Return the PNG of the validation images with boxes; None if there is none."""
        try:
            return None if self.folder is None else (self.folder / GALLERY_NAME).read_bytes()
        except OSError:
            return None
