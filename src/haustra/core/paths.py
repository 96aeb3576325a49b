"""Type of the paths that public functions take: text or path-like objects."""

import os

StrPath = str | os.PathLike[str]
