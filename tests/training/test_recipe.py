import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from haustra.core.checked import CheckedSettings
from haustra.core.errors import HaustraError
from haustra.training.config import TrainConfig
from haustra.training.recipe import (
    EASY,
    AugmentStrength,
    AveragingSettings,
    Recipe,
    parse_recipe,
    read_recipe,
)
from haustra.training.state import differing_settings


def numbers_of(settings: CheckedSettings) -> list[tuple[CheckedSettings, str]]:
    """Return every number of nested settings as its owner and its name."""
    found: list[tuple[CheckedSettings, str]] = []
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if isinstance(value, CheckedSettings):
            found += numbers_of(value)
        elif isinstance(value, int | float):
            found.append((settings, field.name))
    return found


def test_a_recipe_goes_to_json_and_back() -> None:
    recipe = parse_recipe({"augmentation": {"full": {"scale": [0.5, 2]}}}, name="r")
    assert recipe != Recipe()
    stored = json.loads(json.dumps(recipe.to_json()))
    assert parse_recipe(stored, name="r") == recipe


def test_a_recipe_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"augmentation": {"easy": {"mosaic": 0}}}')
    recipe = read_recipe(str(path))
    easy = replace(EASY, mosaic=0.0)
    assert recipe == replace(Recipe(), augmentation=replace(Recipe().augmentation, easy=easy))
    assert isinstance(recipe.augmentation.easy.mosaic, float)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"optimiser": {}},
            "r.json: 'optimiser' is not a setting; expected one of augmentation, growth, "
            "optimizer, averaging, matching, loss",
        ),
        ([], "r.json: expected a JSON object of settings, not []"),
        ({"loss": 3}, "r.json: loss: expected a JSON object of settings, not 3"),
        (
            {"augmentation": {"full": {"mosaic": 1.5}}},
            "r.json: augmentation: full: mosaic=1.5: expected a number from 0 to 1",
        ),
        (
            {"loss": {"l1_weight": "4"}},
            "r.json: loss: l1_weight='4': expected a finite number of at least 0",
        ),
        (
            {"growth": {"share": 0}},
            "r.json: growth: share=0: expected a number above 0 and up to 1",
        ),
        (
            {"matching": {"num_top_cells": 1.5}},
            "r.json: matching: num_top_cells=1.5: expected a whole number of at least 1",
        ),
        (
            {"optimizer": {"kernels": "sgd"}},
            "r.json: optimizer: kernels='sgd': expected one of muon, adamw",
        ),
        (
            {"augmentation": {"full": {"scale": [2, 1]}}},
            "r.json: augmentation: full: scale=(2.0, 1.0): expected the smaller number first",
        ),
        (
            {"augmentation": {"full": {"scale": [1]}}},
            "r.json: augmentation: full: scale=[1]: expected 2 values, each a finite "
            "number above 0",
        ),
    ],
)
def test_a_wrong_recipe_is_named_in_one_line(value: Any, message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        parse_recipe(value, name="r.json")
    assert str(caught.value) == message


def test_every_number_is_checked_at_construction() -> None:
    for owner, name in numbers_of(Recipe()):
        with pytest.raises(HaustraError, match=f"^{name}=nan: expected a "):
            replace(owner, **{name: float("nan")})  # type: ignore[type-var]


def test_a_mistake_in_python_names_the_parameter() -> None:
    with pytest.raises(HaustraError) as caught:
        AugmentStrength(blur=-1)
    assert str(caught.value) == "blur=-1: expected a number from 0 to 1"
    with pytest.raises(HaustraError, match=r"^recipe=\{\}: expected a Recipe"):
        TrainConfig(manifest="m", recipe={})  # type: ignore[arg-type]


def test_a_recipe_that_differs_is_named_on_resume() -> None:
    before = TrainConfig(manifest="m").to_json()
    recipe = Recipe(averaging=AveragingSettings(max_decay=0.5))
    now = TrainConfig(manifest="m", recipe=recipe, seed=1).to_json()
    phrases = differing_settings(json.loads(json.dumps(before)), now, versions=("a", "a"))
    assert [str(HaustraError(phrase)) for phrase in phrases] == [
        "recipe.averaging.max_decay 0.998 (now 0.5)",
        "seed=0 (now 1)",
    ]


def test_a_state_from_before_recipes_has_the_default_recipe() -> None:
    now = TrainConfig(manifest="m").to_json()
    before = {name: value for name, value in now.items() if name != "recipe"}
    assert differing_settings(before, now, versions=("a", "a")) == []


def test_a_state_that_names_the_cpu_ndarray_is_of_the_same_backend() -> None:
    now = TrainConfig(manifest="m", backend="cpu").to_json()
    before = now | {"backend": "ndarray"}
    assert differing_settings(before, now, versions=("a", "a")) == []


def test_settings_take_paths_as_text() -> None:
    config = TrainConfig(manifest="m", checkpoint_out="x.bin", metrics_out="m.jsonl")  # type: ignore[arg-type]
    assert config.run_folder == Path("x.bin.run")
    assert config.metrics_path == Path("m.jsonl")


def test_every_checkpoint_name_has_a_run_folder_of_its_own() -> None:
    names = [
        "exp_lr0.001",
        "exp_lr0.002",
        "exp_v1.1",
        "exp_v1.2",
        "x",
        "x.bin",
        "x.pt",
        ".x",
        "x..",
    ]
    folders = {TrainConfig(manifest="m", checkpoint_out=Path(name)).run_folder for name in names}
    assert folders == {Path(f"{name}.run") for name in names}
    with pytest.raises(HaustraError) as caught:
        TrainConfig(manifest="m", checkpoint_out=Path("x.run"))
    assert str(caught.value) == (
        "checkpoint_out='x.run': expected a name without .run at its end, which names the run "
        "folder of another checkpoint"
    )
