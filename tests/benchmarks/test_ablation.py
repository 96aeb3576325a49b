from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.ablation import VARIANTS, train_variant
from benchmarks.kvasir.scoring import Scores
from haustra.models import detector
from scenes import write_warehouse


@pytest.mark.parametrize("name", [name for name, (*_, change) in VARIANTS.items() if change])
def test_what_a_variant_changes_is_there(name: str) -> None:
    change = VARIANTS[name][2]
    assert change is not None
    with change():  # an AttributeError where a name is gone
        pass


def test_a_variant_is_scored_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def score(*args: object, **kwargs: object) -> Scores:
        rounds.append(detector.EXCLUSION_ROUNDS)
        return Scores(ap50=0.0, ap75=0.0, ap50_95=0.0)

    monkeypatch.setattr(ablation, "score", score)
    manifest = write_warehouse(tmp_path)
    for name in ("no-exclusion", "shipped"):
        train_variant(name, manifest=manifest, folder=tmp_path, epochs=1, seed=0)
    shipped = detector.EXCLUSION_ROUNDS
    assert rounds == [0, 0, shipped, shipped]
