"""The run folder beside a checkpoint: settings, data, environment and metrics of its training.

`config.json` (resolved settings; `haustra train --config` takes it), `environment.json`,
`metrics.jsonl`, `gallery.png`, `curves.png`, and `states/` while the training is not done. The
status file and TensorBoard events go where the settings say.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from haustra.core.environment import describe_environment
from haustra.core.errors import needs_extra, option
from haustra.core.files import write_json_atomic
from haustra.training.config import ONE_TIME_SETTINGS, TrainConfig
from haustra.training.prepare import Prepared

SECONDS_BETWEEN_STATUS = 2.0

StateName = Literal["training", "validating", "done", "interrupted", "failed"]


def write_run_files(prepared: Prepared, *, initial_weights: dict[str, Any]) -> None:
    """Write `config.json` and `environment.json`."""
    config, backend, manifest = prepared.config, prepared.backend, prepared.split.manifest
    settings = {k: v for k, v in config.to_json().items() if k not in ONE_TIME_SETTINGS}
    write_json_atomic(config.run_folder / "config.json", value=settings)
    write_json_atomic(
        config.run_folder / "environment.json",
        value={
            **describe_environment(),
            # The sums, and therefore the weights, depend on it.
            "num_threads": torch.get_num_threads(),
            "backend": backend.name,
            "hardware": backend.hardware,
            "warehouse": {
                "manifest": str(config.manifest),
                "version": manifest.version,
                "splits": {name: counts.model_dump() for name, counts in manifest.splits.items()},
                "sources": [source.model_dump() for source in manifest.sources],
            },
            "initial_weights": initial_weights,
        },
    )


def draw_training_curves(path: Path, *, history: list[dict[str, Any]]) -> None:
    """Draw loss, learning rate, validation and speed by epoch."""
    with needs_extra("train", needed_for="the curves"):
        import matplotlib as mpl
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    epochs = [entry["epoch"] for entry in history]
    marker = "o" if len(epochs) == 1 else None
    for name in ("loss", "objectness", "l1", "iou", "slots"):
        if name in history[0]:
            values = [entry[name] for entry in history]
            axes[0, 0].plot(epochs, values, label=name.replace("_", " "), marker=marker)
    axes[0, 0].set(title="training loss", yscale="log")
    axes[0, 0].legend(fontsize="small")
    validated = [entry for entry in history if "val" in entry]
    for name, label in (("ap50", "AP50"), ("ap75", "AP75"), ("ap50_95", "AP50-95")):
        scores = [entry["val"]["average_precision"][name] for entry in validated]
        axes[0, 1].plot([entry["epoch"] for entry in validated], scores, marker="o", label=label)
    axes[0, 1].set(title="validation", ylim=(0, 1))
    axes[0, 1].legend(fontsize="small", loc="lower right")
    axes[1, 0].plot(epochs, [entry["lr"] for entry in history], marker=marker)
    axes[1, 0].set(title="learning rate", xlabel="epoch", ylim=(0, None))
    axes[1, 1].plot(epochs, [entry["images_per_s"] for entry in history], marker=marker)
    axes[1, 1].set(title="images per second", xlabel="epoch", ylim=(0, None))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _numbers(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested JSON objects with their path, such as `val/num_images`."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, f"{prefix}{name}/")
        elif isinstance(item, int | float):
            yield prefix + name, float(item)


class Reporter:
    """Writes the entries of epochs and the status in between, to the files that the settings name.

    Args:
        history: Entries of earlier epochs, where a training is continued.

    Raises:
        MissingExtraError: `tensorboard` is set, and the package is not installed.
    """

    def __init__(self, config: TrainConfig, *, history: list[dict[str, Any]]) -> None:
        self._config = config
        self._last_status, self._started = 0.0, time.time()
        self._status: dict[str, Any] = {}
        self._writer: Any = None
        if config.tensorboard is not None:
            with needs_extra("tensorboard", needed_for=option("tensorboard")):
                from torch.utils.tensorboard import SummaryWriter
            # Without `purge_step`, events after the last saved step would appear twice.
            first_step = history[-1]["step"] + 1 if history else 0
            self._writer = SummaryWriter(str(config.tensorboard), purge_step=first_step)
        config.metrics_path.parent.mkdir(parents=True, exist_ok=True)
        self._metrics: TextIO = config.metrics_path.open("w")
        for entry in history:
            self._write_line(entry)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        if self._writer is not None:
            self._writer.close()

    def _write_line(self, entry: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(entry) + "\n")
        self._metrics.flush()

    def epoch(self, entry: dict[str, Any]) -> None:
        """Write the entry of a finished epoch."""
        self._write_line(entry)
        if self._writer is not None:
            for name, number in _numbers(entry):
                self._writer.add_scalar(name, number, entry["step"])
            self._writer.flush()

    def status(self, state: StateName, **values: Any) -> None:
        """Write the status file, at most every two seconds while the state stays the same.

        Values that are left out keep their last value.
        """
        if self._config.status_file is None:
            return
        is_new = self._status.get("state") != state
        self._status |= {"state": state, **values}
        now = time.monotonic()
        if not is_new and now - self._last_status < SECONDS_BETWEEN_STATUS:
            return
        self._last_status = now
        value = {
            **self._status,
            "checkpoint": str(self._config.checkpoint_path),
            "process_id": os.getpid(),
            "started_at_unix": round(self._started, 3),
            "updated_at_unix": round(time.time(), 3),
        }
        write_json_atomic(self._config.status_file, value=value)
