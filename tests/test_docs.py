"""The documentation names what exists: commands, flags, files, settings."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import make_cli
from haustra import __version__

ROOT = Path(__file__).parents[1]
USER_PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PAGES = sorted([*USER_PAGES, *(ROOT / "dev").glob("*.md")])
MIGRATION = ROOT / "docs" / "from-cortenforge.md"
COMMANDS = make_cli.list_commands()
FLAGS = {
    words: {name for setting in make_cli.list_settings(command) for name in setting.names}
    | {"--help"}
    for words, command in COMMANDS.items()
}
EVERY_FLAG = set().union(*FLAGS.values()) | {"--version"}
FLAGS_OF_OTHER_PROGRAMS = {
    "--index-url",  # pip
    "--summary",  # vulkaninfo
}
ABSENCE = re.compile(
    r"\b(do(es)? not exist|(is|are) not (there|supported)|(is|are) not built(?! again)|"
    r"none yet|not yet|has no|have no|cannot be (resumed|started|exported))\b"
)


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def link_targets(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def calls_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the command and the rest of each `haustra ...` in code blocks and code spans."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        for call in re.findall(r"(?:^|[;|&] *|\$ )haustra ([^#;|&]*)", line.strip()):
            words = [word for word in call.split() if re.fullmatch(r"[a-z][a-z-]*", word)]
            known = [" ".join(words[:count]) for count in (2, 1)]
            name = next((name for name in known if name in COMMANDS), call.split(" ")[0])
            yield name, call


def migration_rows() -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the tables of commands and flags, each with its heading."""
    text = MIGRATION.read_text()
    tables = text[text.index("\n## Commands\n") : text.index("\n## Captures\n")]
    for section in re.split(r"^##+ ", tables, flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        rows = [line for line in lines if line.startswith("|")]
        for row in rows[2:]:
            yield heading, [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in link_targets(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in heading_anchors(file), f"{page.name} links to {target}"


def test_every_command_has_its_section_and_a_page_that_shows_it() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    others = "\n".join(page.read_text() for page in USER_PAGES if page.name != "cli.md")
    for words in COMMANDS:
        assert f"\n## haustra {words}\n" in reference, "run `python docs/make_cli.py`"
        assert f"haustra {words.split()[0]}" in others


@pytest.mark.parametrize("words", FLAGS)
def test_every_flag_has_its_row_and_text_in_the_reference(words: str) -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    section = reference.split(f"\n## haustra {words}\n")[1].split("\n## ")[0]
    for setting in make_cli.list_settings(COMMANDS[words]):
        row = re.search(rf"^\| `{setting.names[0]}`[^|]*\| [^|]*\w", section, flags=re.MULTILINE)
        assert row, f"{words} {setting.names[0]} has no text; run `python docs/make_cli.py`"


@pytest.mark.parametrize(
    "page", [*USER_PAGES, *sorted((ROOT / "runs").glob("*.sh"))], ids=lambda page: page.name
)
def test_every_command_line_in_a_page_or_script_is_one_that_the_program_takes(page: Path) -> None:
    text = page.read_text()
    calls = list(calls_in(f"```sh\n{text}\n```" if page.suffix == ".sh" else text))
    assert calls or page.suffix != ".sh"
    for words, call in calls:
        assert words in COMMANDS or re.match(r"-|[A-Z]+$", words), f"{page.name}: haustra {call}"
        unknown = flags_in(call) - FLAGS.get(words, EVERY_FLAG)
        assert not unknown, f"{page.name}: haustra {call}: no such flag: {unknown}"


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_every_flag_named_in_a_page_exists(page: Path) -> None:
    text = page.read_text()
    if page == MIGRATION:
        cells = [" ".join(row[1:]) for _, row in migration_rows()]
        text = "\n".join(cells) + text[text.index("\n## Captures\n") :]
        text = text.replace("`--val-ratio` at training time in the older generation", "")
    scripts = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "runs").iterdir()]
    of_scripts = set().union(*(flags_in(script.read_text()) for script in scripts))
    unknown = flags_in(text) - EVERY_FLAG - of_scripts - FLAGS_OF_OTHER_PROGRAMS
    assert not unknown, f"{page.name} names flags that do not exist: {unknown}"


def test_the_migration_page_names_commands_and_flags_that_exist() -> None:
    for heading, (_, ours, remark) in migration_rows():
        for words, call in calls_in(f"{ours} {remark}"):
            assert words in COMMANDS, f"{heading}: haustra {call}"
        if heading.startswith("haustra "):
            words = next((words for words, _ in calls_in(ours)), heading.removeprefix("haustra "))
            assert flags_in(ours) <= FLAGS[words], f"{heading}: {ours}"


def test_the_migration_page_says_none_of_nothing_that_exists() -> None:
    names = {words.split()[-1] for words in COMMANDS}
    num_absent = 0
    for heading, (theirs, ours, remark) in migration_rows():
        assert not ABSENCE.search(f"{ours} {remark}"), f"{heading}: write 'none' or what to use"
        if re.match(r"none\b|no\b|-|$", ours):
            num_absent += 1
            # `warehouse_cmd --store` is none, though `haustra train` has such a flag: the command
            # of the section decides where it has one.
            flags = FLAGS.get(heading.removeprefix("haustra "), EVERY_FLAG)
            assert not flags_in(theirs) & flags, f"{heading}: {theirs} exists"
            spans = set(re.findall(r"`([a-z_]+)`", theirs))
            assert not spans & names, f"{heading}: {theirs} exists"
    assert num_absent >= 5


def test_prose_of_the_migration_page_calls_nothing_absent_that_exists() -> None:
    text = MIGRATION.read_text()
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    for sentence in re.split(r"(?<=[.:]) ", prose):
        if ABSENCE.search(sentence):
            named = flags_in(sentence) & EVERY_FLAG
            calls = [words for words, _ in calls_in(sentence) if words in COMMANDS]
            assert not named, f"{sentence}: {named} exist"
            assert not calls, f"{sentence}: {calls} exist"


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_says_that_haustra_is_not_a_medical_device() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert text.count("It is not a medical device") == 1


def test_what_scripts_make_in_the_docs_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "training.md"):
        made = re.findall(
            r"<!-- made by [^>]*-->\n(.*?)<!-- end -->", page.read_text(), flags=re.DOTALL
        )
        assert made
        assert all("```text" in part for part in made), page.name
