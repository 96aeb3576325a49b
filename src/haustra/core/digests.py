"""SHA-256 digests of bytes, files and JSON values."""

import hashlib
import json
from typing import Any

from haustra.core.paths import StrPath, to_path


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: StrPath) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with to_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_group(group_id: str) -> str:
    """Return 12 hexadecimal digits that identify a group without its name."""
    return digest_bytes(group_id.encode())[:12]


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return digest_bytes(text.encode())


def seal_json(value: dict[str, Any], *, field: str) -> dict[str, Any]:
    """Return a JSON object with one more field at its end: the `digest_json` of all others."""
    return {**value, field: digest_json(value)}


def is_sealed(value: dict[str, Any], *, field: str) -> bool:
    """Return whether `field` holds the digest of all other fields, as written by `seal_json`."""
    others = {name: item for name, item in value.items() if name != field}
    return value.get(field) == digest_json(others)
