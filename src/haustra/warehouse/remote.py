"""The place of a warehouse: a folder, or a URL that fsspec opens (s3://, memory://).

Servers drop connections and fail for a moment, so every read is tried again, with growing pauses.
The caller compares what was read with its digest.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, MissingExtraError
from haustra.core.paths import StrPath, to_path
from haustra.warehouse.format import MANIFEST_NAME, REBUILD_HINT, WRONG_BYTES, check_file

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
"""Pause after the first failure; each later one is twice as long. s3fs adds pauses of its own."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A warehouse on this machine."""

    path: Path
    manifest_name: str = MANIFEST_NAME

    def name_of(self, file: str) -> str:
        """Return the full name of a file of the warehouse."""
        return str(self.path / file)

    def read(self, file: str, *, sha256: str | None = None) -> bytes:
        """Return a file's bytes, and check their digest if one is given."""
        check_file(self.path / file, sha256=None)
        data = (self.path / file).read_bytes()
        if sha256 is not None and digest_bytes(data) != sha256:
            raise HaustraError(f"{self.name_of(file)} {WRONG_BYTES}; {REBUILD_HINT}")
        return data


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteFolder:
    """A warehouse behind a URL."""

    url: str  # URL of the folder, without a slash at the end
    manifest_name: str
    file_system: Any  # a file system of fsspec
    path: str  # path of the folder in the file system

    def name_of(self, file: str) -> str:
        """Return the full name of a file of the warehouse."""
        return f"{self.url}/{file}"

    def read(self, file: str, *, sha256: str | None = None) -> bytes:
        """Return a file's bytes, and check their digest if one is given."""

        def fetch() -> bytes:
            data: bytes = self.file_system.cat_file(f"{self.path}/{file}")
            if sha256 is not None and digest_bytes(data) != sha256:
                raise OSError(f"what was read {WRONG_BYTES}")
            return data

        return _retry(fetch, name=self.name_of(file))

    def download(self, file: str, *, target: Path, is_whole: Callable[[Path], bool]) -> None:
        """Write a file to `target` in pieces, until `is_whole` accepts it."""

        def fetch() -> None:
            self.file_system.get_file(f"{self.path}/{file}", str(target))
            if not is_whole(target):
                raise OSError(f"what was read {WRONG_BYTES}")

        _retry(fetch, name=self.name_of(file))


Location = Folder | RemoteFolder


def _retry(read: Callable[[], Result], *, name: str) -> Result:
    """Call `read` until it succeeds, at most `ATTEMPTS` times."""
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise HaustraError(
                f"{name}: {_reason(error)}; expected a warehouse that this account may read; check "
                "the URL and the credentials"
            ) from None
        except Exception as error:  # noqa: BLE001 - every fsspec file system has errors of its own
            if attempt == ATTEMPTS:
                raise HaustraError(
                    f"{name} could not be read in {ATTEMPTS} attempts, the last failed with: "
                    f"{_reason(error)}; expected a server that answers; run the same command again"
                ) from None
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def parse_location(manifest: StrPath) -> Location:
    """Return the place of a warehouse.

    Args:
        manifest: Path or URL of its manifest, or of the folder that holds it.
    """
    text = os.fspath(manifest)
    if isinstance(manifest, os.PathLike) or "://" not in text:
        path = to_path(text)
        if path.is_dir():
            return Folder(path=path)
        return Folder(path=path.parent, manifest_name=path.name)
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise MissingExtraError("s3fs", extra="stream", needed_for=text) from None
    url = text.rstrip("/")
    if not url.endswith(".json"):
        url = f"{url}/{MANIFEST_NAME}"
    folder_url, _, manifest_name = url.rpartition("/")
    try:
        file_system, path = url_to_fs(folder_url)
    except (ImportError, ValueError) as error:  # the package is missing; the scheme is unknown
        raise HaustraError(
            f"{text}: {error}; expected a folder of this machine or a URL that an installed "
            "package of fsspec opens, such as s3://BUCKET/FOLDER"
        ) from None
    return RemoteFolder(
        url=folder_url, manifest_name=manifest_name, file_system=file_system, path=path
    )
