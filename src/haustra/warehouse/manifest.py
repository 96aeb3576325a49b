"""Reading `manifest.json`, and checking the files that it lists."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from haustra.core.digests import is_sealed
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.paths import StrPath
from haustra.warehouse.format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    MANIFEST_SEAL,
    REBUILD_HINT,
    WarehouseManifest,
    check_file,
)


def resolve_manifest_path(manifest: StrPath) -> Path:
    """Return the path of a manifest, given it or the warehouse folder that holds it."""
    path = Path(manifest)
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
    """Check a decoded manifest that is called `name` in messages.

    Raises:
        HaustraError: It is not a warehouse manifest, has another format version, or was edited.
    """
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
