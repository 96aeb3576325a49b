import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_kinds import EDITS, KINDS, Injected, Kind, apply_edit
from fault_scene import Case, Scene, build_scene, copied_case, observe
from faults import Judgement, draw_kinds, judge, result_table, train
from haustra.core.digests import seal_json
from haustra.core.errors import HaustraError
from haustra.warehouse.format import MANIFEST_SEAL


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return build_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def case(scene: Scene, tmp_path: Path) -> Iterator[Case]:
    with copied_case(scene, folder=tmp_path / "case", versions="both", seed=0) as copied:
        yield copied


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_gives_wrong_data(scene: Scene, tmp_path: Path, kind: str) -> None:
    seed = 1000 + list(KINDS).index(kind)
    found = judge(scene, kind=kind, seed=seed, folder=tmp_path / "case", golden_training=None)
    assert (found.wrong, found.unexpected) == ([], [])
    assert found.repaired or not found.messages


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_a_manifest_is_named_or_changes_nothing(case: Case, name: str) -> None:
    apply_edit(case, name=name)
    if name == "keys in the other order":
        assert observe(case.manifest, split="train") == case.scene.observed["train"]
    else:
        with pytest.raises(HaustraError, match=r"manifest\.json (has|is damaged)"):
            observe(case.manifest, split="train")


def call_a_test_shard_a_training_shard(case: Case) -> Injected:
    """What no digest can find: an edit by whoever seals the manifest again."""
    name = "a training and a test shard swap their splits"
    injected = apply_edit(case, name=name)
    value: dict[str, Any] = case.read_manifest()
    del value[MANIFEST_SEAL]
    case.manifest.write_text(json.dumps(seal_json(value, field=MANIFEST_SEAL)))
    return injected


@pytest.mark.slow
def test_wrong_data_are_told_from_good_ones(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = train(scene.root / scene.first, folder=tmp_path)
    monkeypatch.setitem(
        KINDS,
        "sealed edit",
        Kind(inject=call_a_test_shard_a_training_shard, versions="first"),
    )
    found = judge(
        scene, kind="sealed edit", seed=0, folder=tmp_path / "case", golden_training=golden
    )
    assert found.trained
    assert "wrong data" in found.outcomes
    assert {"train: other images", "test: other images", "training: other weights"} <= set(
        found.wrong
    )


@pytest.mark.slow
def test_a_traceback_is_counted(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_: Case) -> Injected:
        raise RuntimeError("a bug")

    monkeypatch.setitem(KINDS, "bug", Kind(inject=break_down, versions="none"))
    found = judge(scene, kind="bug", seed=0, folder=tmp_path / "case", golden_training=None)
    assert found.outcomes == {"unexpected"}
    assert "RuntimeError: a bug" in found.unexpected[0]
    assert not (tmp_path / "case").exists()


def test_every_kind_is_drawn_and_those_of_more_weight_more_often() -> None:
    drawn = draw_kinds(200, only=None)
    assert set(drawn) == set(KINDS)
    assert drawn.count("manifest edited") > drawn.count("shard deleted")
    assert set(draw_kinds(5, only="shard deleted")) == {"shard deleted"}


def test_the_table_counts_every_fault_once_and_those_repaired_again() -> None:
    lines = result_table(
        [
            Judgement(kind="one", seed=0, repaired=True),
            Judgement(kind="one", seed=1, messages=["x is gone"], repaired=True),
            Judgement(kind="two", seed=2, wrong=["train: other images"]),
        ]
    )
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[2:] == [
        ["one", "2", "1", "1", "2", "0", "0"],
        ["two", "1", "0", "0", "0", "1", "0"],
        ["all", "3", "1", "1", "2", "1", "0"],
    ]


def test_a_case_is_drawn_by_its_seed_alone(scene: Scene, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with copied_case(scene, folder=tmp_path / "case", versions="first", seed=7) as copied:
            texts.append(KINDS["shard with a flipped bit"].inject(copied).text)
    assert texts[0] == texts[1]
