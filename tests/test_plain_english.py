"""Prose that reads as if translated is banned from the sources, the pages and every `--help`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import make_cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "haustra"
SUFFIXES = {".css", ".html", ".ipynb", ".jinja", ".js", ".md", ".py", ".sh"}
PLACES = {
    "README.md": [ROOT / "README.md"],
    "CONTRIBUTING.md": [ROOT / "CONTRIBUTING.md"],
    "CHANGELOG.md": [ROOT / "CHANGELOG.md"],
    **{
        folder: sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
        for folder in ("examples", "benchmarks", "runs")
    },
    **{
        str(path.relative_to(ROOT)): [path]
        for path in sorted((ROOT / "docs").iterdir())
        if path.suffix in SUFFIXES
    },
    "src/haustra": sorted(PACKAGE.glob("*.py")),
    **{
        f"src/haustra/{folder.name}": sorted(
            path for path in folder.rglob("*") if path.suffix in SUFFIXES
        )
        for folder in sorted(PACKAGE.iterdir())
        if folder.is_dir() and folder.name != "__pycache__"
    },
}

COMPARATIVES = (
    "longer|more|less|greater|fewer|larger|smaller|lower|higher|better|worse|faster|slower"
)
PHRASES = {
    r"Args of the constructor": "use `Args:` in the docstring of the class",
    r"\bin place of\b": "write 'instead of'",
    r"\banew\b": "write 'again'",
    rf"(?<!there )\bis no (?!({COMPARATIVES})\b)": "write 'is not a'",
    r"\b(tell|tells|told)\b": "write 'report', 'print' or 'say'",
    r"colour": "write 'color'",
    r"normalis": "write 'normaliz'",
    r"optimis": "write 'optimiz'",
    r"quantis": "write 'quantiz'",
    r"labelled": "write 'labeled'",
    r"\bgrey": "write 'gray'",
    r"(?<!\w)centre|_centre": "write 'center'",
    r"behaviour": "write 'behavior'",
    r"artefact": "write 'artifact'",
}
BEGINNINGS = {
    r"Of\b": "begin with the noun ('Number of ...')",
    r"Whether\b": "begin with the noun, or with 'True if'",
    r"What\b": "begin with the noun, or with an imperative",
    r"How often\b": "write 'Number of times' or 'Interval'",
}
STORED_NAMES = re.compile(
    # Keys of files and of JSON output, which stay as they are.
    r"\b(un)?labelled_(images|frames)\b|\ballow[_-]unlabelled\b"
    r"|([\"'`])(unlabelled|relabelled|optimiser)\3"
    r"|\brelabelled(?==|:)|(?<=\.)relabelled\b"
)


def problems_of_line(line: str) -> Iterator[str]:
    prose = STORED_NAMES.sub("", line)
    for pattern, remedy in PHRASES.items():
        if found := re.search(pattern, prose, flags=re.IGNORECASE):
            yield f"{found[0]!r}: {remedy}"


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes, functions, fields and constants, with lines."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def problems_of_beginning(text: str) -> Iterator[str]:
    for pattern, remedy in BEGINNINGS.items():
        if found := re.match(pattern, text.strip()):
            yield f"begins with {found[0]!r}: {remedy}"


def problems_of_file(path: Path) -> list[str]:
    text = path.read_text()
    name = path.relative_to(ROOT)
    found = [
        f"{name}:{number}: {problem}"
        for number, line in enumerate([str(name), *text.splitlines()])
        for problem in problems_of_line(line)
    ]
    if path.suffix == ".py":
        found += [
            f"{name}:{number}: docstring {problem}"
            for number, docstring in docstrings(text)
            for problem in problems_of_beginning(docstring)
        ]
    return found


@pytest.mark.parametrize("place", PLACES)
def test_prose_is_plain_english(place: str) -> None:
    problems = [problem for path in PLACES[place] for problem in problems_of_file(path)]
    assert not problems, "\n" + "\n".join(problems)


def test_help_is_plain_english() -> None:
    problems = []
    for words, command in make_cli.list_commands().items():
        texts = {words: command.help} | {
            f"{words} {setting.names[0]}": setting.parameter.help or ""
            for setting in make_cli.list_settings(command)
        }
        problems += [
            f"haustra {name}: {problem}"
            for name, text in texts.items()
            for problem in (*problems_of_line(text), *problems_of_beginning(text))
        ]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    "line",
    [
        "a list in place of a tuple",
        "the table begins anew",
        "this is no checkpoint",
        "The header tells the size",
        "the Colour of a polyp",
        "class Optimiser:",
        "unlabelled frames",
        "x_centre = 3",
    ],
)
def test_a_banned_phrase_is_found(line: str) -> None:
    assert list(problems_of_line(line))


@pytest.mark.parametrize(
    "line",
    [
        "the file is no longer there",
        "There is no image",
        "the new one is no larger than the old one",
        'counts["unlabelled"] and `unlabelled_images` are keys of files',
        "it is concentrated, and the epicentres lie outside",
        "the teller",
    ],
)
def test_other_phrases_pass(line: str) -> None:
    assert not list(problems_of_line(line))


def test_the_beginnings_of_all_docstrings_are_checked(tmp_path: Path) -> None:
    source = (
        '"""What a module does."""\nRATE = 1\n"""Of learning."""\n\n'
        'def half():\n    """Whether it is half."""\n\nclass A:\n    x: int = 1\n'
        '    """How often."""\n'
    )
    found = [problem for _, text in docstrings(source) for problem in problems_of_beginning(text)]
    assert len(found) == 4
