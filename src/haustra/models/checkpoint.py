"""Checkpoints: one file per detector, with safetensors weights and a JSON header, without a pickle.

The header holds everything that inference needs (architecture, input size, preprocessing, class
names, operating point) and the origin of the weights (warehouse, training settings, history).
"""

import json
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from haustra import __version__
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_bytes_atomic
from haustra.core.letterbox import ResizeMode
from haustra.core.operating_point import OperatingPoint
from haustra.models.detector import ModelConfig, ModelKind, SlotDetector, build_model
from haustra.models.efficientnet import FORMER_DEPTHS

FORMAT_NAME = "haustra-checkpoint"
FORMAT_VERSION = 2
HEADER_KEY = "haustra"
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
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: loss terms, and validation metrics where they were computed."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Datasets with their license and citation, from the warehouse."""
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    training_groups: tuple[str, ...] = ()
    """`digest_group` of each group in the training split, sorted; none in older checkpoints."""
    haustra_version: str = __version__
    format_version: int = FORMAT_VERSION

    @property
    def kind_name(self) -> str:
        """`tinydet` or `bigdet`."""
        return f"{self.model.kind}det"


def header_to_json(header: CheckpointHeader) -> dict[str, Any]:
    """Return the header as the JSON value that is stored."""
    return {
        "format": FORMAT_NAME,
        "format_version": header.format_version,
        **asdict(header),
        "operating_point": header.operating_point.to_json(),
    }


def _header_from_json(value: dict[str, Any]) -> CheckpointHeader:
    model = value["model"]
    model |= {"depths": model["depths"] or FORMER_DEPTHS}
    return TypeAdapter(CheckpointHeader).validate_python(value)


def contiguous_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a row-major copy of each tensor on the CPU.

    The safetensors format has no other layout and refuses shared memory.
    """
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def write_checkpoint(path: Path, *, header: CheckpointHeader, state: dict[str, Tensor]) -> None:
    """Write a model's `state_dict`, on any device, with its header, whole or not at all."""
    text = json.dumps(header_to_json(header), allow_nan=False)
    write_bytes_atomic(path, data=save(contiguous_tensors(state), metadata={HEADER_KEY: text}))


def _not_a_checkpoint(path: Path) -> HaustraError:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return HaustraError(
            f"{path} is a pickle (a PyTorch .pt file?), which haustra never loads, since a pickle "
            "can run code; expected a file that `haustra train` wrote"
        )
    return HaustraError(f"{path} {NOT_A_CHECKPOINT}")


def read_header(path: Path) -> CheckpointHeader:
    """Read a checkpoint's header without its weights.

    Raises:
        HaustraError: The file does not exist, is not a checkpoint, or has another format version.
    """
    if not path.is_file():
        raise HaustraError(
            f"{path} does not exist; expected a checkpoint; make one with `haustra train`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError):
        raise _not_a_checkpoint(path) from None
    try:
        value = json.loads(text or "null")
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise HaustraError(f"{path} {NOT_A_CHECKPOINT}")
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{path} has checkpoint format version {value.get('format_version')!r}; this haustra "
            f"reads version {FORMAT_VERSION}; use the haustra that wrote it"
        )
    try:
        return _header_from_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise HaustraError(f"{path} has a damaged header: {problem}") from None
    except (KeyError, TypeError) as error:
        raise HaustraError(f"{path} has a damaged header: {error!r}") from None


def check_kind(path: Path, *, header: CheckpointHeader, wanted: ModelKind | None) -> None:
    """Check that a checkpoint has the wanted kind of model; None allows any.

    Raises:
        HaustraError: The kinds differ.
    """
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
    header = read_header(path)
    try:
        model = build_model(header.model)
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise HaustraError(f"{path} has a damaged header: {error!r}") from None
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        reason = textwrap.shorten(reason, 200, placeholder=" ...")
        raise HaustraError(f"{path} has weights that do not fit its header: {reason}") from None
    return header, model.eval()


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of all weights in name order; equal weights give equal digests."""
    parts = []
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        values = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        parts.append(values.numpy().tobytes())
    return digest_bytes(b"".join(parts))
