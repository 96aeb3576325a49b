"""`haustra train --dry-run`: time, memory and disk of a training, measured in a few steps of it."""

import resource
import shutil
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from haustra.core.allocator import keep_freed_memory
from haustra.models.backbone import count_parameters
from haustra.training.batches import mean_share_of_pixels
from haustra.training.config import TrainConfig
from haustra.training.memory import is_out_of_memory, out_of_memory_error
from haustra.training.prepare import Prepared, prepare_training
from haustra.training.replicas import one_thread_each
from haustra.training.state import NUM_KEPT
from haustra.training.training import Training

NUM_STEPS = 4  # the first one is not timed: it also allocates memory that the others use again
NUM_VALIDATION_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Predicted cost of a training."""

    num_parameters: int
    num_steps: int | None  # optimizer steps; None where the time decides
    seconds_per_step: float  # mean over the whole training, which begins with smaller images
    training_s: float  # total training time, or the time budget
    validation_s: float  # total validation time
    peak_memory_bytes: int
    """Peak of the process, with batches, validation and mapped pages of the warehouse."""
    available_memory_bytes: int | None
    disk_bytes: int  # size of the checkpoint and the saved states
    free_disk_bytes: int


def dry_run(config: TrainConfig) -> DryRun:
    """Make every check of a training, take a few steps, and write nothing."""
    prepared = prepare_training(config)
    with one_thread_each(prepared.config):
        return _dry_run(prepared)


def _dry_run(prepared: Prepared) -> DryRun:
    config, growth = prepared.config, prepared.config.recipe.growth
    keep_freed_memory()
    # The steps are measured at the full size.
    recipe = replace(config.recipe, growth=replace(growth, first_resolution=1.0))
    training = Training(replace(prepared, config=replace(config, recipe=recipe)))
    try:
        seconds_per_step = median(_time_steps(training))
        if training.images_grow:
            seconds_per_step *= mean_share_of_pixels(growth)
        one_validation_s = _time_validation(training)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        seconds_per_step = None
    if seconds_per_step is None:
        # Only here is the memory of the failed step free again.
        raise out_of_memory_error(training)
    training_s = config.time_budget_s or (training.num_steps or 0) * seconds_per_step
    num_epochs = training_s / (seconds_per_step * training.steps_per_epoch)
    weights = training.average.model.state_dict().values()
    checkpoint_bytes = sum(tensor.nbytes for tensor in weights)
    if config.patience:
        training.keep_average()
    state_bytes = sum(tensor.nbytes for tensor in training.state().tensors.values())
    return DryRun(
        num_parameters=count_parameters(training.model),
        num_steps=training.num_steps,
        seconds_per_step=seconds_per_step,
        training_s=training_s,
        validation_s=one_validation_s * -(-num_epochs // config.val_every),
        peak_memory_bytes=_peak_memory_bytes(),
        available_memory_bytes=_available_memory_bytes(),
        # While the newest state is written, the two before it still exist.
        disk_bytes=checkpoint_bytes + (NUM_KEPT + 1) * state_bytes,
        free_disk_bytes=shutil.disk_usage(_first_existing(config.run_folder)).free,
    )


def _peak_memory_bytes() -> int:
    """Return the largest memory that this process had in use at one time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _available_memory_bytes() -> int | None:
    """Return the memory that programs can still take; None where the system does not report it."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":") for line in path.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _first_existing(path: Path) -> Path:
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _time_steps(training: Training) -> list[float]:
    """Take a few steps and return their seconds, the first one left out."""
    seconds = []
    with closing(training.batches()) as batches:
        for _ in range(NUM_STEPS):
            started = time.monotonic()
            if training.take_step(batches) is None:
                break
            seconds.append(time.monotonic() - started)
    return seconds[1:] or seconds


def _time_validation(training: Training) -> float:
    """Return the predicted seconds of one validation."""
    split = training.validation_split
    if not len(split):
        return 0.0
    images = split.gather(np.arange(min(NUM_VALIDATION_IMAGES, len(split)))).images
    started = time.monotonic()
    training.build_predictor()(images)
    return (time.monotonic() - started) * len(split) / len(images)
