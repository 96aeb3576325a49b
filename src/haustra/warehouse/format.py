"""The warehouse's format: names, versions and the manifest's fields. `docs/warehouse.md` draws it.

A warehouse is a folder `v<version>/` with `shards/<content>.safetensors` (each of one run and one
split), `samples.parquet` (one row per sample) and `manifest.json`, written last.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from haustra.core.letterbox import ResizeMode

FORMAT_NAME: Final = "haustra-warehouse"
FORMAT_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"
TABLE_NAME = "samples.parquet"
CLASS_NAMES = ("polyp",)

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
    """What one split holds."""

    samples: int
    boxes: int
    empty: int
    """Samples without a box."""
    groups: int


class SourceEntry(_Strict):
    """Where a run came from, and under what terms."""

    run_id: str
    source: str | None
    dataset: str | None
    licence: str | None
    citation: str | None


class Validation(_Strict):
    """What the ETL found, in total and per run; every rejected frame or box has a line."""

    total: dict[str, int]
    runs: dict[str, dict[str, int]]
    problems: list[str]


class WarehouseManifest(_Strict):
    """`manifest.json`. Holds nothing of paths or time, so that equal data give equal bytes."""

    format: Literal["haustra-warehouse"]
    format_version: Literal[1]
    version: str
    """First 16 hexadecimal digits of the content digest."""
    target_size_wh: tuple[int, int]
    resize_mode: ResizeMode
    max_boxes: int
    samples_per_shard: int
    truncated_boxes: int
    """Boxes left out because their sample had more than `max_boxes`; the smallest go."""
    class_names: list[str]
    split_method: str
    splits: dict[SplitName, SplitCounts]
    shards: list[ShardEntry]
    table: TableEntry
    sources: list[SourceEntry]
    validation: Validation
