"""SHA-256 digests of bytes, files and JSON values. Nothing here depends on paths or time."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_group(group_id: str) -> str:
    """Return 12 hexadecimal digits that tell a group from others without saying its name."""
    return digest_bytes(group_id.encode())[:12]


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return digest_bytes(text.encode())


def seal_json(value: dict[str, Any], *, field: str) -> dict[str, Any]:
    """Return a JSON object with one field more, last: the `digest_json` of all others."""
    return {**value, field: digest_json(value)}


def is_sealed(value: dict[str, Any], *, field: str) -> bool:
    """Tell whether `field` holds the digest of all other fields, as `seal_json` puts it there."""
    others = {name: item for name, item in value.items() if name != field}
    return value.get(field) == digest_json(others)
