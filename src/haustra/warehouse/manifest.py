"""Reading `manifest.json`, and checking the files that it lists."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from haustra.core.digests import digest_file, is_sealed
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.warehouse.format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    MANIFEST_SEAL,
    WarehouseManifest,
)
from haustra.warehouse.shard_stores import REBUILD_HINT, check_shard_file


def resolve_manifest_path(path: Path) -> Path:
    """Return the manifest's path for a manifest or the warehouse folder that holds it."""
    return path / MANIFEST_NAME if path.is_dir() else path


def read_manifest(path: Path) -> WarehouseManifest:
    """Read and check a manifest.

    Raises:
        HaustraError: missing, not JSON, not a warehouse manifest, of another format version, or
            edited.
    """
    path = resolve_manifest_path(path)
    if not path.exists():
        raise HaustraError(
            f"{path} does not exist; expected a warehouse manifest; make one with `haustra etl`"
        )
    return check_manifest(read_json(path, what="a warehouse manifest"), path=str(path))


def check_manifest(value: Any, *, path: str) -> WarehouseManifest:
    """Check a decoded manifest that is called `path` in messages.

    Raises:
        HaustraError: It is not a warehouse manifest, of another format version, or edited.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise HaustraError(
            f"{path} is not a warehouse manifest: its 'format' is not {FORMAT_NAME!r}; expected "
            "the manifest.json that `haustra etl` writes"
        )
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{path} has format version {value.get('format_version')!r}; this haustra reads "
            f"version {FORMAT_VERSION}; build it again with `haustra etl`, or use the haustra "
            "that wrote it"
        )
    fields = {name: item for name, item in value.items() if name != MANIFEST_SEAL}
    try:
        manifest = WarehouseManifest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise HaustraError(
            f"{path} is damaged: field {field!r}: {problem['msg']}; {REBUILD_HINT}"
        ) from None
    # An edit can be plausible: a training and a test shard that change places, another licence.
    if not is_sealed(value, field=MANIFEST_SEAL):
        raise HaustraError(
            f"{path} has changed since `haustra etl` wrote it: its fields do not have the SHA-256 "
            f"in {MANIFEST_SEAL!r}; {REBUILD_HINT}"
        )
    return manifest


def check_file(path: Path, *, sha256: str) -> None:
    """Check that a file of a warehouse is there and has its digest.

    Raises:
        HaustraError: The file is missing or its bytes have changed.
    """
    if not path.is_file() or digest_file(path) != sha256:
        raise HaustraError(f"{path} is gone or has changed; {REBUILD_HINT}")


def check_warehouse(manifest_path: Path) -> WarehouseManifest:
    """Check the digests of the table and of every shard, and return the manifest.

    Raises:
        HaustraError: naming the first file that is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    manifest = read_manifest(manifest_path)
    check_file(manifest_path.parent / manifest.table.file, sha256=manifest.table.sha256)
    for entry in manifest.shards:
        check_shard_file(manifest_path.parent / entry.file, entry=entry)
    return manifest
