"""The parts of haustra import in one direction only, as the design's layout says."""

import ast
from pathlib import Path

import haustra

PACKAGE = Path(haustra.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "captures": {"core"},
    "simulator": {"core", "captures"},
    "warehouse": {"core", "captures"},
    "models": {"core"},
    "webgpu": {"core", "models"},
    "backends": {"core", "models", "webgpu"},
    "inference": {"core", "captures", "models", "backends"},
    "evaluation": {"core", "captures", "warehouse", "models", "inference"},
    "training": {
        "core",
        "warehouse",
        "models",
        "webgpu",
        "backends",
        "inference",
        "evaluation",
    },
    "exporting": {"core", "captures", "warehouse", "models", "inference", "evaluation"},
    "view": {"core", "captures", "simulator", "inference"},
}
ALLOWED["cli"] = {"cli", *ALLOWED}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        parts |= {name.split(".")[1] for name in names if name.startswith("haustra.")}
    return parts


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ALLOWED)


def test_parts_import_only_what_lies_below_them() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {part}"
        for folder, allowed in ALLOWED.items()
        for path in (PACKAGE / folder).rglob("*.py")
        for part in imported_parts(path) - allowed - {folder}
    ]
    assert wrong == []


def test_only_the_command_line_prints_or_exits() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in {"print", "exit"})
            or (isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "sys.exit")
        )
    ]
    assert wrong == []
