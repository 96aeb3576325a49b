import json
from pathlib import Path

import pytest
import torch

from benchmarks.ablation import VARIANTS, train_variant
from haustra.models.checkpoint import read_checkpoint
from haustra.training.recipe import FULL, Recipe, parse_recipe
from scenes import write_warehouse


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.recipe])
def test_the_recipe_of_a_variant_is_another_one(name: str) -> None:
    assert parse_recipe(VARIANTS[name].recipe, name=name) != Recipe()


def test_strong_at_once_is_full_augmentation_from_the_first_epoch() -> None:
    recipe = parse_recipe(VARIANTS["strong-at-once"].recipe, name="strong-at-once")
    assert recipe.augmentation.easy == FULL


def test_a_variant_stores_its_recipe_and_its_scores(tmp_path: Path) -> None:
    train_variant(
        "no-average", manifest=write_warehouse(tmp_path), folder=tmp_path, epochs=1, seed=0
    )
    header, _ = read_checkpoint(tmp_path / "no-average.bin")
    assert header.training["recipe"]["averaging"]["max_decay"] == 0
    assert set(json.loads((tmp_path / "no-average.json").read_text())) == {
        "seconds",
        "own",
        "dense",
    }


def test_the_variant_without_the_exclusion_is_trained_and_scored_without_it(tmp_path: Path) -> None:
    train_variant(
        "no-exclusion", manifest=write_warehouse(tmp_path), folder=tmp_path, epochs=1, seed=0
    )
    _, model = read_checkpoint(tmp_path / "no-exclusion.bin")
    assert model.exclusion is not None
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5]] * 3])
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    with torch.no_grad():
        found = model.exclusion(logits, boxes)
        alone = torch.cat([model.exclusion(logits[:, [k]], boxes[:, [k]]) for k in range(3)], dim=1)
    torch.testing.assert_close(found, alone)
