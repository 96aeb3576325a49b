import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sim_to_real import VARIANTS, Recipe, _variants, results_table, variant_folder

RECIPE = Recipe(runs=3, frames=2, epochs=1, model="tiny", seed=0)
DECISIVE = {"sources": "a", "kvasir": "b"}


def test_a_result_is_kept_only_for_the_same_recipe_sources_and_data(tmp_path: Path) -> None:
    def folder(name: str, recipe: Recipe = RECIPE, **changes: str) -> Path:
        return variant_folder(name, recipe=recipe, work=tmp_path, decisive=DECISIVE | changes)

    assert folder("full") == folder("full")
    others = [
        folder("folds"),
        folder("full", replace(RECIPE, runs=7)),
        folder("full", replace(RECIPE, frames=7)),
        folder("full", replace(RECIPE, epochs=7)),
        folder("full", replace(RECIPE, model="big")),
        folder("full", replace(RECIPE, seed=7)),
        folder("full", sources="c"),
        folder("full", kvasir="c"),
    ]
    assert len({folder("full"), *others}) == len(others) + 1


def test_every_variant_leaves_out_the_part_of_its_name() -> None:
    assert VARIANTS["full"][1] == ()
    for name, (_, flags) in VARIANTS.items():
        assert name == "full" or flags == ("--without", name)


def test_the_table_shows_values_with_their_intervals() -> None:
    metrics = {
        "average_precision": {"ap50": 0.5, "ap50_95": 0.25},
        "bootstrap": {"ap50": [0.4, 0.6], "ap50_95": [0.2, 0.3]},
    }
    lines = results_table({"full": metrics, "folds": metrics})
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "without folds",
        "0.500 (0.400..0.600)",
        "0.250 (0.200..0.300)",
    ]
    assert len(lines) == 4


def test_an_unknown_variant_is_refused() -> None:
    assert _variants("folds,full,folds") == ["folds", "full"]
    with pytest.raises(argparse.ArgumentTypeError, match="'fold': expected some of full,folds"):
        _variants("fold")
