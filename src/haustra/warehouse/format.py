"""The format of a warehouse: names, versions, the manifest, and the check of the files it lists.

A warehouse is a folder `v<version>/` with `shards/<content>.safetensors` (each of one run and one
split), `samples.parquet` (one row per sample) and `manifest.json`, written last. `docs/format.md`
describes every byte.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from haustra.captures.schema import SplitName as SplitName
from haustra.core.digests import digest_file, is_sealed, seal_json
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.letterbox import Letterbox, ResizeMode, plan_letterbox
from haustra.core.paths import StrPath, to_path

FORMAT_NAME: Final = "haustra-warehouse"
FORMAT_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_SEAL = "manifest_sha256"  # field of `manifest.json` that holds the digest of all others
TABLE_NAME = "samples.parquet"
CLASS_NAMES = ("polyp",)
REBUILD_HINT = "run `haustra etl` again, which rebuilds a damaged warehouse"
WRONG_BYTES = "does not have the SHA-256 that its manifest says: its bytes have changed"

SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


class Strict(BaseModel):
    """A model that accepts its own fields only."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardEntry(Strict):
    """One shard file."""

    file: str
    """Path inside the warehouse folder."""
    split: SplitName
    num_samples: int = Field(ge=1)
    num_bytes: int = Field(ge=1)
    sha256: str
    content: str
    """Digest of all that decides the shard's bytes; its first 16 digits name the file."""


class TableEntry(Strict):
    """The sample table's file."""

    file: str
    sha256: str


class SplitCounts(Strict):
    """Counts of one split."""

    samples: int
    boxes: int
    empty: int
    """Samples without a box."""
    empty_left_out: int
    """Frames without a box that `empty_ratio` left out."""
    groups: int


class SourceEntry(Strict):
    """Provenance and terms of a run."""

    run_id: str
    source: str | None
    dataset: str | None
    licence: str | None
    citation: str | None
    crop: Literal["auto"] | None = None
    """auto if the images are the endoscope's picture without its border; stored only then."""

    @model_serializer(mode="wrap")
    def _without_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = dump(self)
        if self.crop is None:
            value.pop("crop", None)
        return value


class QuarantinedFrame(Strict):
    """A frame that cannot be used, and the reason; it counts against the thresholds."""

    sample_id: str
    file: str
    """The label file or image at fault, inside its run folder."""
    kind: Literal["invalid", "missing"]
    reason: str


class Validation(Strict):
    """Counts of the ETL, in total and per run."""

    total: dict[str, int]
    runs: dict[str, dict[str, int]]
    problems: list[str]
    """One line per rejected box or unlabeled image."""


class WarehouseManifest(Strict):
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

    def letterbox_of(self, row: Mapping[str, Any]) -> Letterbox:
        """Return how the source image of a row of the table was mapped to the stored one."""
        return plan_letterbox(
            (row["source_width"], row["source_height"]),
            target_size_wh=self.target_size_wh,
            mode=self.resize_mode,
        )


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
    """Check that a file is what the manifest says; the arguments are those of `find_damage`."""
    damage = find_damage(path, sha256=sha256, num_bytes=num_bytes)
    if damage:
        raise HaustraError(f"{path} {damage}; {REBUILD_HINT}")


def manifest_to_text(manifest: WarehouseManifest) -> str:
    """Return the text of `manifest.json`: the fields and their digest."""
    value = seal_json(manifest.model_dump(mode="json"), field=MANIFEST_SEAL)
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def resolve_manifest_path(manifest: StrPath) -> Path:
    """Return the path of a manifest, given it or the warehouse folder that holds it."""
    path = to_path(manifest)
    return path / MANIFEST_NAME if path.is_dir() else path


def read_manifest(manifest: StrPath) -> WarehouseManifest:
    """Read and check a manifest, given it or the warehouse folder that holds it.

    Raises:
        HaustraError: The manifest is missing, not JSON, of another format or version, or edited.
    """
    path = resolve_manifest_path(manifest)
    if not path.exists():
        raise HaustraError(
            f"{path} does not exist; expected a warehouse manifest; make one with `haustra etl`"
        )
    return check_manifest(read_json(path, what="a warehouse manifest"), name=str(path))


def check_manifest(value: Any, *, name: str) -> WarehouseManifest:
    """Check a decoded manifest that is called `name` in messages."""
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise HaustraError(
            f"{name} is not a warehouse manifest: its 'format' is not {FORMAT_NAME!r}; expected "
            "the manifest.json that `haustra etl` writes"
        )
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{name} has format version {value.get('format_version')!r}; this haustra reads "
            f"version {FORMAT_VERSION}; build it again with `haustra etl`, or use the haustra "
            "that wrote it"
        )
    fields = {field: item for field, item in value.items() if field != MANIFEST_SEAL}
    try:
        manifest = WarehouseManifest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise HaustraError(
            f"{name} is damaged: field {field!r}: {problem['msg']}; {REBUILD_HINT}"
        ) from None
    # An edit can be plausible: a training and a test shard that change places, another license.
    if not is_sealed(value, field=MANIFEST_SEAL):
        raise HaustraError(
            f"{name} has changed since `haustra etl` wrote it: its fields do not have the SHA-256 "
            f"in {MANIFEST_SEAL!r}; {REBUILD_HINT}"
        )
    return manifest


def check_warehouse(manifest: StrPath) -> WarehouseManifest:
    """Check the digests of the table and of every shard, and return the manifest.

    Raises:
        HaustraError: A file is missing or damaged; the first one is named.
    """
    path = resolve_manifest_path(manifest)
    checked = read_manifest(path)
    check_file(path.parent / checked.table.file, sha256=checked.table.sha256)
    for entry in checked.shards:
        check_file(path.parent / entry.file, sha256=entry.sha256, num_bytes=entry.num_bytes)
    return checked
