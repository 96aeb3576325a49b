"""Checkpoints: one file per detector, with safetensors weights and a JSON header, without a pickle.

The header holds everything that inference needs (architecture, input size, preprocessing, class
names, operating point) and the origin of the weights (warehouse, training settings, history).
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from haustra import __version__
from haustra.core.errors import HaustraError, option
from haustra.core.letterbox import ResizeMode
from haustra.core.operating_point import OperatingPoint
from haustra.models.detector import ModelConfig, ModelKind, SlotDetector, build_model
from haustra.models.tensor_file import (
    DamagedError,
    NotOfFormatError,
    TensorFormat,
    read_tensor_file,
    read_tensor_header,
    write_tensor_file,
)

FORMAT = TensorFormat("haustra-checkpoint", 3, remedy="train it again")
NOT_A_CHECKPOINT = "is not a haustra checkpoint; expected a file that `haustra train` wrote"


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """Everything in a checkpoint except its weights."""

    model: ModelConfig
    input_size_wh: tuple[int, int]
    resize_mode: ResizeMode
    max_boxes: int
    class_names: tuple[str, ...]
    warehouse_version: str
    training: dict[str, Any]
    """The resolved training settings, recipe included; older checkpoints have no recipe."""
    epoch: int = 0
    """Epoch of the weights; with `patience` it may lie before the last one of the history."""
    is_finished: bool = False  # True once the training has ended
    initial_weights: dict[str, Any] = field(default_factory=dict)
    """Source, license and digest of the weights that the training began from."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: loss terms, and validation metrics where they were computed."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Datasets with their license and citation, from the warehouse."""
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    training_groups: tuple[str, ...] = ()
    """`digest_group` of each group in the training split, sorted."""
    haustra_version: str = __version__
    weights_sha256: str = ""  # digest of the weights; `write_checkpoint` computes it

    @property
    def kind_name(self) -> str:
        """`tinydet` or `bigdet`."""
        return f"{self.model.kind}det"


def header_to_json(header: CheckpointHeader) -> dict[str, Any]:
    """Return the header as the JSON value that is stored."""
    return asdict(header) | {"operating_point": header.operating_point.to_json()}


def _header_from_json(path: Path, value: dict[str, Any]) -> CheckpointHeader:
    try:
        return TypeAdapter(CheckpointHeader).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise HaustraError(f"{path} has a damaged header: {problem}") from None


def write_checkpoint(path: Path, *, header: CheckpointHeader, state: dict[str, Tensor]) -> None:
    """Write a model's `state_dict`, on any device, with its header, whole or not at all."""
    write_tensor_file(path, kind=FORMAT, header=header_to_json(header), tensors=state)


def _not_a_checkpoint(path: Path) -> HaustraError:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return HaustraError(
            f"{path} is a pickle (a PyTorch .pt file?), which haustra never loads, since a pickle "
            "can run code; expected a file that `haustra train` wrote"
        )
    return HaustraError(f"{path} {NOT_A_CHECKPOINT}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of reading a tensor file into those of a checkpoint."""
    if not path.is_file():
        raise HaustraError(
            f"{path} does not exist; expected a checkpoint; make one with `haustra train`"
        )
    try:
        yield
    except NotOfFormatError:
        raise _not_a_checkpoint(path) from None
    except DamagedError as error:
        raise HaustraError(
            f"{path} is damaged: {error}; use another copy of it, or {FORMAT.remedy}"
        ) from None


def read_header(path: Path) -> CheckpointHeader:
    """Read a checkpoint's header without its weights.

    Raises:
        HaustraError: The file does not exist, is not a checkpoint, is damaged, or has another
            format version.
    """
    with _reading(path):
        value = read_tensor_header(path, kind=FORMAT)
    return _header_from_json(path, value)


def check_kind(path: Path, *, header: CheckpointHeader, wanted: ModelKind | None) -> None:
    """Check that a checkpoint has the wanted kind of model; None allows any."""
    if wanted is not None and header.model.kind != wanted:
        raise HaustraError(
            f"{path} holds {header.kind_name}, but {option('model', wanted)} was asked for; "
            f"expected a {wanted}det checkpoint, or {option('model', header.model.kind)}"
        )


def read_checkpoint(path: Path) -> tuple[CheckpointHeader, SlotDetector]:
    """Read a checkpoint into a detector in evaluation mode, strictly.

    Raises:
        HaustraError: As from `read_header`, or the header does not describe a detector, or the
            weights do not fit it.
    """
    with _reading(path):
        value, state = read_tensor_file(path, kind=FORMAT)
    header = _header_from_json(path, value)
    try:
        model = build_model(header.model)
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise HaustraError(f"{path} has a damaged header: {error!r}") from None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        reason = textwrap.shorten(reason, 200, placeholder=" ...")
        raise HaustraError(f"{path} has weights that do not fit its header: {reason}") from None
    return header, model.eval()
