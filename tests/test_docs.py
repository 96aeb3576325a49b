"""The documentation names what exists: commands, files, settings."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from cyclopts import App

from haustra import __version__
from haustra.captures.importers.masks import MaskImportConfig
from haustra.captures.overlay import OverlayConfig
from haustra.captures.prune import PruneConfig
from haustra.cli import importing, warehouse
from haustra.cli.main import COMMANDS
from haustra.evaluation.config import EvalConfig
from haustra.exporting.config import ExportConfig
from haustra.inference.config import InferConfig
from haustra.simulator.config import DatagenConfig
from haustra.training.config import TrainConfig
from haustra.warehouse.audit import AuditConfig
from haustra.warehouse.etl import ETLConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

CONFIGS = {
    "datagen": DatagenConfig,
    "import masks": MaskImportConfig,
    "overlay": OverlayConfig,
    "prune": PruneConfig,
    "etl": ETLConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "infer": InferConfig,
    "export": ExportConfig,
    "warehouse audit": AuditConfig,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_of_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_has_its_section_and_a_page_that_shows_it() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    others = "\n".join(page.read_text() for page in PAGES if page.name != "cli.md")
    for name in COMMANDS:
        assert f"\n## haustra {name}\n" in reference
        assert f"haustra {name}" in others


@pytest.mark.parametrize("group", [importing.app, warehouse.app], ids=lambda app: app.name[0])
def test_every_command_of_a_group_has_its_section(group: App) -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    names = [name for name in group if not name.startswith("-")]
    assert names
    for name in names:
        assert f"\n## haustra {group.name[0]} {name}\n" in reference


@pytest.mark.parametrize("command", CONFIGS)
def test_every_setting_has_its_flag_and_text_in_the_reference(command: str) -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    section = reference.split(f"\n## haustra {command}\n")[1].split("\n## ")[0]
    for setting in fields(CONFIGS[command]):
        flag = "--" + setting.name.replace("_", "-")
        assert re.search(rf"{flag}\b[^│]*\S {{2,}}\S", section), f"{command} {flag} has no text"


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_says_that_this_is_no_medical_device() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert text.count("It is not a medical device") == 1


def test_what_scripts_make_in_the_docs_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "training.md"):
        made = re.findall(
            r"<!-- made by [^>]*-->\n(.*?)<!-- end -->", page.read_text(), flags=re.DOTALL
        )
        assert made
        assert all("```text" in part for part in made), page.name
