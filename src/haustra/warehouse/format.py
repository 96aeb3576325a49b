"""The format of a warehouse: names, versions, the manifest's fields, and the check of a file.

A warehouse is a folder `v<version>/` with `shards/<content>.safetensors` (each of one run and one
split), `samples.parquet` (one row per sample) and `manifest.json`, written last. `docs/format.md`
describes every byte.
"""

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from haustra.core.digests import digest_file, seal_json
from haustra.core.errors import HaustraError
from haustra.core.letterbox import ResizeMode

FORMAT_NAME: Final = "haustra-warehouse"
FORMAT_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_SEAL = "manifest_sha256"
"""Field of `manifest.json` that holds the digest of all others."""
TABLE_NAME = "samples.parquet"
CLASS_NAMES = ("polyp",)
REBUILD_HINT = "run `haustra etl` again, which rebuilds a damaged warehouse"
WRONG_BYTES = "does not have the SHA-256 that its manifest says: its bytes have changed"

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardEntry(_Strict):
    """One shard file."""

    file: str
    """Path inside the warehouse folder."""
    split: SplitName
    num_samples: int = Field(ge=1)
    num_bytes: int = Field(ge=1)
    sha256: str
    content: str
    """Digest of all that decides the shard's bytes; its first 16 digits name the file."""


class TableEntry(_Strict):
    """The sample table's file."""

    file: str
    sha256: str


class SplitCounts(_Strict):
    """Counts of one split."""

    samples: int
    boxes: int
    empty: int
    """Samples without a box."""
    empty_left_out: int
    """Frames without a box that `empty_ratio` left out."""
    groups: int


class SourceEntry(_Strict):
    """Provenance and terms of a run."""

    run_id: str
    source: str | None
    dataset: str | None
    licence: str | None
    citation: str | None


class QuarantinedFrame(_Strict):
    """A frame that cannot be used, and the reason; it counts against the thresholds."""

    sample_id: str
    file: str
    """The label file or image at fault, inside its run folder."""
    kind: Literal["invalid", "missing"]
    reason: str


class Validation(_Strict):
    """Counts of the ETL, in total and per run."""

    total: dict[str, int]
    runs: dict[str, dict[str, int]]
    problems: list[str]
    """One line per rejected box or unlabeled image."""


class WarehouseManifest(_Strict):
    """`manifest.json` without its seal. Without paths and times, equal data give equal bytes."""

    format: Literal["haustra-warehouse"]
    format_version: Literal[1]
    version: str
    """First 16 hexadecimal digits of the content digest."""
    target_size_wh: tuple[int, int]
    resize_mode: ResizeMode
    max_boxes: int
    samples_per_shard: int
    empty_ratio: float
    """Share of the frames without a box that were kept."""
    truncated_boxes: int
    """Boxes left out, the smallest of samples with more than `max_boxes`."""
    class_names: list[str]
    split_method: str
    splits: dict[SplitName, SplitCounts]
    shards: list[ShardEntry]
    table: TableEntry
    sources: list[SourceEntry]
    validation: Validation
    quarantined: list[QuarantinedFrame]
    """Every frame that is invalid or whose image is missing, in the order of the runs."""


def find_damage(path: Path, *, sha256: str | None, num_bytes: int | None = None) -> str | None:
    """Return how a file differs from what the manifest says, or None if it does not.

    Args:
        path: A shard or the sample table.
        sha256: Its expected digest, or None to leave its bytes unread.
        num_bytes: Its expected size, or None for any.
    """
    if not path.is_file():
        return "is gone, but its manifest lists it"
    found = path.stat().st_size
    if num_bytes not in (None, found):
        return f"has {found} bytes, but its manifest says {num_bytes}"
    if sha256 is not None and digest_file(path) != sha256:
        return WRONG_BYTES
    return None


def check_file(path: Path, *, sha256: str | None, num_bytes: int | None = None) -> None:
    """Check that a file is what the manifest says; the arguments are those of `find_damage`.

    Raises:
        HaustraError: The file is missing or damaged.
    """
    damage = find_damage(path, sha256=sha256, num_bytes=num_bytes)
    if damage:
        raise HaustraError(f"{path} {damage}; {REBUILD_HINT}")


def manifest_to_text(manifest: WarehouseManifest) -> str:
    """Return the text of `manifest.json`: the fields and their digest."""
    value = seal_json(manifest.model_dump(mode="json"), field=MANIFEST_SEAL)
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
