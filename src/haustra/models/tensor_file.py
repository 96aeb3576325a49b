"""Files of tensors: safetensors bytes without a pickle, with a JSON header, both of known digest.

Checkpoints and training states are such files. Every reading checks the digests, since a disk that
returns other bytes than were written would otherwise give a detector that runs and is wrong.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from haustra.core.digests import digest_bytes, is_sealed, seal_json
from haustra.core.files import check_version, write_bytes_atomic
from haustra.core.paths import plain_path

METADATA_KEY = "haustra"
HEADER_SEAL, WEIGHTS_SEAL = "header_sha256", "weights_sha256"


class TensorFormat(NamedTuple):
    """Name and version of a format, and the advice for files that are not read."""

    name: str
    version: int
    remedy: str


class NotOfFormatError(Exception):
    """A file does not have the expected format."""


class DamagedError(Exception):
    """A file does not hold what was written."""


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of all weights in name order; equal weights give equal digests."""
    parts = []
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        values = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        parts.append(values.numpy().tobytes())
    return digest_bytes(b"".join(parts))


def write_tensor_file(
    path: Path, *, kind: TensorFormat, header: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write tensors on any device with a header of JSON values, whole or not at all."""
    # The safetensors format has row-major tensors only, and refuses shared memory.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    value = {
        "format": kind.name,
        "format_version": kind.version,
        **header,
        WEIGHTS_SEAL: weights_digest(copies),
    }
    text = json.dumps(seal_json(value, field=HEADER_SEAL), allow_nan=False)
    write_bytes_atomic(path, data=save(copies, metadata={METADATA_KEY: text}))


@contextmanager
def _opened(path: Path, *, kind: TensorFormat) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a tensor file, and yield it with its checked header."""
    try:
        with plain_path(path) as name:
            file = safe_open(name, framework="pt")
    except (SafetensorError, OSError) as error:
        raise NotOfFormatError(str(error)) from None
    with file:
        try:
            metadata: dict[str, str] | None = file.metadata()  # type: ignore[no-untyped-call]
            header = json.loads((metadata or {}).get(METADATA_KEY, "null"))
        except (ValueError, RecursionError) as error:
            raise NotOfFormatError(str(error)) from None
        if not isinstance(header, dict) or header.get("format") != kind.name:
            raise NotOfFormatError(f"it does not hold a {kind.name}")
        version = header.get("format_version")
        check_version(path, name=kind.name, found=version, known=kind.version, remedy=kind.remedy)
        if not is_sealed(header, field=HEADER_SEAL):
            raise DamagedError(f"its header does not have the SHA-256 in {HEADER_SEAL!r}")
        yield file, header


def read_tensor_header(path: Path, *, kind: TensorFormat) -> dict[str, Any]:
    """Read the header of a tensor file without its tensors, and check it.

    Raises:
        NotOfFormatError: The file has another format, or none.
        DamagedError: The header does not have its digest.
        HaustraError: The format has another version.
    """
    with _opened(path, kind=kind) as (_, header):
        return header


def read_tensor_file(path: Path, *, kind: TensorFormat) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a tensor file, and check it: header and tensors of one moment, also during a training.

    Raises:
        NotOfFormatError, HaustraError: As for `read_tensor_header`.
        DamagedError: The header or the tensors do not have their digest.
    """
    with _opened(path, kind=kind) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if weights_digest(tensors) != header[WEIGHTS_SEAL]:
        raise DamagedError(f"its weights do not have the SHA-256 in {WEIGHTS_SEAL!r}")
    return header, tensors
