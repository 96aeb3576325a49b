import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_judgement import judge, train
from fault_kinds import KINDS, Injected, Kind, draw_kinds
from fault_scene import Case, Scene, build_scene, copied_case, observe
from manifest_edits import EDITS, edit_manifest

from haustra.core.digests import seal_json
from haustra.core.errors import HaustraError
from haustra.warehouse.format import MANIFEST_SEAL

NUM_FAULTS = 200
TRAIN_EVERY = 10
"""One fault in ten is also trained on."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return build_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def golden_training(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(scene.root / scene.first, folder=tmp_path_factory.mktemp("training"))


@pytest.fixture
def case(scene: Scene, tmp_path: Path) -> Iterator[Case]:
    with copied_case(scene, folder=tmp_path / "case", versions="both", seed=0) as copied:
        yield copied


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.parametrize(("seed", "kind"), list(enumerate(draw_kinds(NUM_FAULTS))))
def test_a_fault_is_harmless_or_named_and_is_repaired(
    scene: Scene, golden_training: dict[str, Any], tmp_path: Path, seed: int, kind: str
) -> None:
    found = judge(
        scene,
        kind=kind,
        seed=seed,
        folder=tmp_path / "case",
        golden_training=golden_training if seed % TRAIN_EVERY == 0 else None,
    )
    assert (found.wrong, found.unexpected) == ([], []), found.text
    assert found.repaired or not found.messages


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_of_each_kind_is_harmless_or_named(
    scene: Scene, tmp_path: Path, kind: str
) -> None:
    seed = 1000 + list(KINDS).index(kind)
    found = judge(scene, kind=kind, seed=seed, folder=tmp_path / "case", golden_training=None)
    assert (found.wrong, found.unexpected) == ([], [])
    assert found.repaired or not found.messages


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_a_manifest_is_named_or_changes_nothing(case: Case, name: str) -> None:
    edit_manifest(case, name=name)
    if name == "keys in the other order":
        assert observe(case.manifest, split="train") == case.scene.observed["train"]
    else:
        with pytest.raises(HaustraError, match=r"manifest\.json (has|is damaged)"):
            observe(case.manifest, split="train")


def call_a_test_shard_a_training_shard(case: Case) -> Injected:
    """Make an edit that no digest can find: its author seals the manifest again."""
    name = "a training and a test shard swap their splits"
    edit_manifest(case, name=name)
    value: dict[str, Any] = case.read_manifest()
    del value[MANIFEST_SEAL]
    case.manifest.write_text(json.dumps(seal_json(value, field=MANIFEST_SEAL)))
    return Injected(text=name, files=("manifest.json",))


@pytest.mark.slow
def test_judging_finds_wrong_data(
    scene: Scene, golden_training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Kind(inject=call_a_test_shard_a_training_shard, versions="first")
    monkeypatch.setitem(KINDS, "sealed edit", kind)
    found = judge(
        scene, kind="sealed edit", seed=0, folder=tmp_path / "case", golden_training=golden_training
    )
    assert found.trained
    assert {"train: other images", "test: other images", "training: other weights"} <= set(
        found.wrong
    )


@pytest.mark.slow
def test_judging_finds_a_traceback(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_: Case) -> Injected:
        raise RuntimeError("a bug")

    monkeypatch.setitem(KINDS, "bug", Kind(inject=break_down, versions="none"))
    found = judge(scene, kind="bug", seed=0, folder=tmp_path / "case", golden_training=None)
    assert "RuntimeError: a bug" in found.unexpected[0]
    assert not (tmp_path / "case").exists()


def test_every_kind_is_drawn_and_kinds_of_more_weight_more_often() -> None:
    drawn = draw_kinds(NUM_FAULTS)
    assert set(drawn) == set(KINDS)
    assert drawn.count("manifest edited") > drawn.count("shard deleted")


@pytest.mark.slow
def test_the_seed_alone_decides_a_fault(scene: Scene, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with copied_case(scene, folder=tmp_path / "case", versions="first", seed=7) as copied:
            texts.append(KINDS["shard with a flipped bit"].inject(copied).text)
    assert texts[0] == texts[1]
