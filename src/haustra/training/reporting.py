"""Reports of a running training: metrics as JSON lines, a status file, TensorBoard events."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

from haustra.core.errors import MissingExtraError, option
from haustra.core.files import write_json_atomic
from haustra.training.config import TrainConfig

SECONDS_BETWEEN_STATUS = 2.0

StateName = Literal["training", "validating", "done", "interrupted", "failed"]


def _numbers(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested JSON objects with their path, such as `val/average_precision`."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, f"{prefix}{name}/")
        elif isinstance(item, int | float):
            yield prefix + name, float(item)


class Reporter:
    """Writes the entries of epochs and the status in between, to the files that the settings name.

    Args:
        config: The settings.
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
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingExtraError(
                    "tensorboard", extra="tensorboard", needed_for=option("tensorboard")
                ) from None
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
        path: Path | None = self._config.status_file
        if path is None:
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
        write_json_atomic(path, value=value)
