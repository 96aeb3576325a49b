"""Where a warehouse lies: a folder of this machine, or a URL that fsspec opens (s3://, memory://).

Servers drop connections and fail for a moment: every read is tried again, with growing pauses, and
what was read is compared with its digest by who asked for it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, MissingExtraError
from haustra.warehouse.format import MANIFEST_NAME

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
"""Pause after the first failure; each later one is twice as long. s3fs adds pauses of its own."""

WRONG_BYTES = "the bytes that came do not have the SHA-256 that the manifest says"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A warehouse on this machine."""

    path: Path
    manifest_name: str = MANIFEST_NAME

    def name_of(self, file: str) -> str:
        """Return the full name of a file of the warehouse, for messages."""
        return str(self.path / file)


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteFolder:
    """A warehouse behind a URL."""

    url: str
    """Of the folder, without a slash at the end."""
    manifest_name: str
    file_system: Any
    """Of fsspec."""
    path: str
    """Of the folder, as the file system names it."""

    def name_of(self, file: str) -> str:
        """Return the full name of a file of the warehouse, for messages."""
        return f"{self.url}/{file}"

    def read(self, file: str, *, sha256: str | None = None) -> bytes:
        """Return a file's bytes, which have this digest if one is given.

        Raises:
            HaustraError: it is not there, or the server failed every time.
        """

        def fetch() -> bytes:
            data: bytes = self.file_system.cat_file(f"{self.path}/{file}")
            if sha256 is not None and digest_bytes(data) != sha256:
                raise OSError(WRONG_BYTES)
            return data

        return try_again(fetch, name=self.name_of(file))

    def download(self, file: str, *, target: Path, is_whole: Callable[[Path], bool]) -> None:
        """Write a file to `target`, in pieces, until it `is_whole`.

        Raises:
            HaustraError: it is not there, or the server failed every time.
        """

        def fetch() -> None:
            self.file_system.get_file(f"{self.path}/{file}", str(target))
            if not is_whole(target):
                raise OSError(WRONG_BYTES)

        try_again(fetch, name=self.name_of(file))


Location = Folder | RemoteFolder


def try_again(read: Callable[[], Result], *, name: str) -> Result:
    """Call `read` until it succeeds, at most `ATTEMPTS` times.

    Raises:
        HaustraError: there is no such file, or it may not be read, or every attempt failed.
    """
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise HaustraError(
                f"{name}: {_reason(error)}; expected a warehouse that this account may read; look "
                "at the URL and the credentials"
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


def parse_location(manifest: str | Path) -> Location:
    """Return where a warehouse lies.

    Args:
        manifest: path or URL of its manifest, or of the folder that holds it.

    Raises:
        HaustraError: the URL's scheme is unknown, or a package that opens it is missing.
    """
    if isinstance(manifest, Path) or "://" not in manifest:
        path = Path(manifest)
        if path.is_dir():
            return Folder(path=path)
        return Folder(path=path.parent, manifest_name=path.name)
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise MissingExtraError("s3fs", extra="stream", needed_for=manifest) from None
    url = manifest.rstrip("/")
    if not url.endswith(".json"):
        url = f"{url}/{MANIFEST_NAME}"
    folder_url, _, manifest_name = url.rpartition("/")
    try:
        file_system, path = url_to_fs(folder_url)
    except (ImportError, ValueError) as error:  # the package is missing; the scheme is unknown
        raise HaustraError(
            f"{manifest}: {error}; expected a folder of this machine or a URL that an installed "
            "package of fsspec opens, such as s3://BUCKET/FOLDER"
        ) from None
    return RemoteFolder(
        url=folder_url, manifest_name=manifest_name, file_system=file_system, path=path
    )
