"""Digests of what haustra's packages do, so that results of other sources are not reused."""

import ast
from collections.abc import Sequence
from pathlib import Path

import haustra
from haustra.core.digests import digest_bytes, digest_json


def digest_source(text: str) -> str:
    """Return a digest of Python source without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return digest_bytes(ast.dump(tree).encode())


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def digest_packages(names: Sequence[str]) -> str:
    """Return a digest of the sources of some packages of haustra.

    Raises:
        ValueError: A package does not exist.
    """
    root = Path(haustra.__file__).parent
    if missing := [name for name in names if not (root / name).is_dir()]:
        raise ValueError(f"haustra has no package {missing[0]!r}; expected names of its folders")
    files = sorted(path for name in names for path in (root / name).rglob("*.py"))
    return digest_json(
        {str(path.relative_to(root)): digest_source(path.read_text()) for path in files}
    )
