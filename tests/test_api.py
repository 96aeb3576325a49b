"""The public Python API, its page and its notebook."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import haustra
from builders import write_run
from haustra.core.errors import HaustraError
from haustra.evaluation.config import EvalConfig
from haustra.exporting.config import ExportConfig
from haustra.simulator.config import DatagenConfig
from haustra.training.config import TrainConfig
from haustra.warehouse.etl_config import ETLConfig

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in haustra.__all__ if name.islower() and name != "__version__"]


def test_importing_haustra_imports_no_other_package() -> None:
    code = (
        "import sys; before = set(sys.modules); import haustra; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['haustra']"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_is_documented(name: str) -> None:
    function = getattr(haustra, name)
    assert callable(function)
    assert "Args:" in (function.__doc__ or "")
    assert "Raises:" in (function.__doc__ or "")
    assert f"`haustra.{name}(" in (ROOT / "docs" / "python.md").read_text()


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'haustra' has no attribute 'trian'"):
        haustra.trian  # noqa: B018


@pytest.mark.parametrize(
    ("name", "config", "other"),
    [
        ("simulate", DatagenConfig, {"headless"}),
        ("build_warehouse", ETLConfig, set()),
        ("train", TrainConfig, {"manifest", "dry_run"}),
        (
            "evaluate",
            EvalConfig,
            {"manifest", "detector_weights", "compare", "model", "backend"},
        ),
        ("export", ExportConfig, {"detector_weights"}),
    ],
)
def test_every_flag_of_a_command_is_a_parameter_of_its_function(
    name: str, config: type, other: set[str]
) -> None:
    parameters = inspect.signature(getattr(haustra, name)).parameters
    assert {field.name for field in fields(config)} - other <= parameters.keys()
    assert not other & parameters.keys()


def test_an_unknown_setting_is_named_with_the_closest_known_one(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"train\(\) got .* 'epoch'; did you mean 'epochs'\?"):
        haustra.train(tmp_path, epoch=3)


def test_a_wrong_setting_is_named_as_a_parameter(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught:
        haustra.train(tmp_path, epochs=0)
    assert str(caught.value) == "epochs=0: expected a whole number of at least 1"


def test_a_warehouse_behind_a_url_is_not_evaluated() -> None:
    with pytest.raises(HaustraError) as caught:
        haustra.evaluate("detector.bin", "s3://bucket/v1")
    assert str(caught.value) == (
        "dataset='s3://bucket/v1': evaluation reads a warehouse on this machine; expected a path, "
        "so copy the warehouse here first"
    )


def test_a_warehouse_is_built_once_and_takes_sizes_and_shares_as_numbers(tmp_path: Path) -> None:
    for number in range(4):
        write_run(tmp_path / "captures" / f"run_{number}", [(2, 2, 12, 12)], group_id=f"g{number}")
    settings: dict[str, Any] = {
        "target_size": (64, 32),
        "split": (0.5, 0.25, 0.25),
        "output_root": str(tmp_path / "warehouse"),
    }
    dataset = haustra.build_warehouse(str(tmp_path / "captures"), **settings)
    assert dataset.manifest.target_size_wh == (64, 32)
    again = haustra.build_warehouse(tmp_path / "captures", **settings)
    assert again.manifest == dataset.manifest
    sample = haustra.open_warehouse(str(dataset.path)).split("train")[0]
    assert sample.image.shape == (32, 64, 3)
    assert sample.image.dtype == np.uint8


def _python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_the_python_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    blocks = _python_blocks(ROOT / "docs" / "python.md")
    assert len(blocks) > 5
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    printed = capsys.readouterr().out
    for shown in re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "python.md").read_text()):
        assert shown in printed
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    read: Any = nbformat.read
    notebook = read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        cell["source"] = cell["source"].replace("epochs=30", "epochs=1")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "report" / "report.html").exists()


def test_the_python_block_of_the_readme_calls_what_exists() -> None:
    (block,) = _python_blocks(ROOT / "README.md")
    called = dict(re.findall(r"haustra\.(\w+)\((.*)\)", block))
    assert {"simulate", "build_warehouse", "train", "load", "evaluate"} <= called.keys()
    for name, arguments in called.items():
        parameters = inspect.signature(getattr(haustra, name)).parameters
        assert set(re.findall(r"(\w+)=", arguments)) <= parameters.keys(), name
