"""Saved states, from which a training continues as if it had never stopped.

A state is a safetensors file without a pickle: the weights, their average, the best average of
`patience`, the optimizer's memory and the random state as tensors, and the position and the
settings as JSON in its header. The file appears whole or not at all, and the one before it stays,
in case the disk damages the newest.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from haustra import __version__
from haustra.core.backend_names import without_alias
from haustra.core.checked import change_settings
from haustra.core.errors import HaustraError, option
from haustra.core.progress import Progress
from haustra.models.detector import ModelConfig
from haustra.models.tensor_file import (
    DamagedError,
    NotOfFormatError,
    TensorFormat,
    read_tensor_file,
    write_tensor_file,
)
from haustra.training.config import FREE_SETTINGS
from haustra.training.recipe import Recipe

FORMAT = TensorFormat(
    "haustra-training-state", 3, remedy=f"start again with {option('overwrite', True)}"
)
NUM_KEPT = 2


@dataclass(kw_only=True)
class Position:
    """Progress of a training. `Training` alone changes it."""

    epoch: int = 0  # number of finished epochs
    num_batches: int = 0  # number of finished batches of the epoch
    num_images: int = 0  # number of images in these batches
    share_at_epoch_start: float = 0.0
    """Share of the training (0..1) that was done at the start of the epoch."""
    sums: dict[str, float] = field(default_factory=dict)  # loss terms, summed over these batches
    rate: float = 0.0  # learning rate of the last step
    epoch_s: float = 0.0  # seconds of training in the epoch, without validation and saving
    trained_s: float = 0.0  # seconds of training in all epochs
    waited_s: float = 0.0  # seconds of the epoch in which a step waited for its batch
    cpu_s: float = 0.0  # CPU seconds of all threads during the steps of the epoch
    data_cpu_s: float = 0.0  # CPU seconds that loading and augmenting its images took
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per epoch
    best_score: float | None = None  # best AP50-95 on the validation split so far
    best_epoch: int = 0  # epoch of the best score, counted from 1; 0 before the first validation
    validations_since_best: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A training at one moment, with everything that continuing it takes except the warehouse."""

    position: Position
    model: ModelConfig
    initial_weights: dict[str, Any]
    """Source, license and digest of the weights that the training began from."""
    settings: dict[str, Any]  # the resolved settings
    warehouse_version: str
    average_steps: int  # number of steps that the averaged weights have followed
    tensors: dict[str, Tensor]


def differing_settings(
    before: dict[str, Any], now: dict[str, Any], *, versions: tuple[str, str]
) -> list[str]:
    """Return a phrase per setting that decides the weights and differs.

    Args:
        before: Resolved settings of the interrupted training. Recipe settings that its version of
            haustra did not store have today's defaults.
        now: Resolved settings of the training that wants to continue it.
        versions: Versions of the two warehouses.
    """
    recipe = change_settings(Recipe(), before.get("recipe", {}), where="saved state: recipe: ")
    before = before | {"recipe": recipe.to_json()}
    before["backend"] = without_alias(before.get("backend", ""))
    before.setdefault("negatives", 0.0)  # versions without this setting had none
    phrases = [
        phrase
        for name in sorted(before.keys() | now.keys())
        if name not in FREE_SETTINGS
        for phrase in _differences(name, before.get(name), now.get(name))
    ]
    if versions[0] != versions[1]:
        phrases.append(f"warehouse v{versions[0]} (now v{versions[1]})")
    return phrases


def _differences(name: str, before: Any, now: Any) -> list[str]:
    """Return a phrase per setting that differs, such as `recipe.averaging.max_decay 0.99`."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            phrase
            for key in before
            for phrase in _differences(f"{name}.{key}", before[key], now.get(key))
        ]
    if before == now:
        return []
    shown = f"{name} {before}" if "." in name else option(name, before)
    return [f"{shown} (now {now})"]


def list_states(folder: Path) -> list[Path]:
    """Return the paths of the states in a folder, the newest first."""
    return sorted(folder.glob("state_*.safetensors"), reverse=True)


def write_state(folder: Path, *, step: int, state: TrainingState) -> None:
    """Write a state, whole or not at all, and remove all but the last two."""
    path = folder / f"state_{step:08d}.safetensors"
    header = {name: value for name, value in vars(state).items() if name != "tensors"}
    header |= {"position": asdict(state.position), "model": asdict(state.model)}
    header["haustra_version"] = __version__
    write_tensor_file(path, kind=FORMAT, header=header, tensors=state.tensors)
    for old in list_states(folder)[NUM_KEPT:]:
        old.unlink()


def remove_states(folder: Path) -> None:
    """Remove every state."""
    for path in list_states(folder):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def read_state(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        NotOfFormatError, DamagedError: The file is damaged.
        HaustraError: The file has another format version.
    """
    header, tensors = read_tensor_file(path, kind=FORMAT)
    return TrainingState(
        position=Position(**header["position"]),
        model=TypeAdapter(ModelConfig).validate_python(header["model"]),
        initial_weights=header["initial_weights"],
        settings=header["settings"],
        warehouse_version=header["warehouse_version"],
        average_steps=header["average_steps"],
        tensors=tensors,
    )


def find_state(folder: Path, *, progress: Progress) -> tuple[Path, TrainingState] | None:
    """Return the newest whole state of a folder, or None if the folder has no states.

    Raises:
        HaustraError: There are states, and all of them are damaged or the newest has another
            format version.
    """
    problems = []
    for path in list_states(folder):
        try:
            state = read_state(path)
        except (NotOfFormatError, DamagedError) as error:
            problems.append(f"{path} is damaged ({error})")
            continue
        for problem in problems:
            progress.line(f"{problem}; continuing from {path.name}, the one before")
        return path, state
    if problems:
        raise HaustraError(
            f"{problems[0]}, as are all states in {folder}; use {option('overwrite', True)} to "
            "start again"
        )
    return None
