import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haustra.core.errors import HaustraError
from haustra.warehouse.format import SplitName
from haustra.warehouse.splits import (
    explain_split,
    parse_ratios,
    split_by_file,
    split_by_ratios,
    split_by_rule,
)


def test_the_rule_puts_a_group_in_val_by_its_sha256() -> None:
    groups = {f"image_{i}" for i in range(200)}
    assignment = split_by_rule(groups, rule="sha256:5")
    for group in groups:
        in_val = int(sha256(group.encode()).hexdigest(), 16) % 5 == 0
        assert assignment.split_of_group[group] == ("val" if in_val else "train")


GROUPS = st.sets(st.text(max_size=8), max_size=40)


RATIOS = st.sampled_from(["0.8,0.1,0.1", "0.4,0.3,0.3", "0.5,0,0.5"])


@given(old=GROUPS, added=GROUPS, ratios=RATIOS)
def test_no_old_group_changes_its_split_when_groups_are_added(
    old: set[str], added: set[str], ratios: str
) -> None:
    trained = {"patient_3"}  # falls into train, so that train is never empty
    shares = parse_ratios(ratios)
    before = split_by_ratios(old | trained, ratios=shares).split_of_group
    after = split_by_ratios(old | trained | added, ratios=shares).split_of_group
    assert before.keys() == old | trained
    assert after.keys() == old | trained | added
    assert before.items() <= after.items()


@given(old=GROUPS, added=GROUPS)
def test_the_rule_too_moves_no_old_group(old: set[str], added: set[str]) -> None:
    trained = {"patient_3"}
    before = split_by_rule(old | trained, rule="sha256:5").split_of_group
    after = split_by_rule(old | trained | added, rule="sha256:5").split_of_group
    assert before.items() <= after.items()


def test_shares_of_the_groups_are_near_the_ratios() -> None:
    groups = {f"patient_{i}" for i in range(2000)}
    places = list(split_by_ratios(groups, ratios=(0.7, 0.2, 0.1)).split_of_group.values())
    assert abs(places.count("train") / 2000 - 0.7) < 0.03
    assert abs(places.count("val") / 2000 - 0.2) < 0.03


def test_a_wanted_split_without_a_group_gets_a_note() -> None:
    assignment = split_by_ratios({"patient_3"}, ratios=(0.8, 0.2, 0.0))
    assert assignment.split_of_group == {"patient_3": "train"}
    assert assignment.notes == (
        "split 'val' is empty: by ratios 0.8,0.2,0 none of 1 group(s) goes there; add groups, "
        "choose another split, or list the groups of each split in a split file",
    )
    (note,) = split_by_rule({"patient_3"}, rule="sha256:5").notes
    assert note.startswith("split 'val' is empty: by rule sha256:5 none of 1 group(s) goes there")


def test_an_empty_training_split_is_an_error() -> None:
    # sha256("a") is at 0.79 of its range.
    with pytest.raises(HaustraError) as caught:
        split_by_ratios({"a"}, ratios=(0.5, 0.25, 0.25))
    assert str(caught.value) == (
        "split='0.5,0.25,0.25' puts none of 1 group(s) into train; expected at least one; add "
        "groups, choose another split, or list the groups of each split with split_file"
    )
    with pytest.raises(HaustraError) as caught:
        split_by_rule({"a"}, rule="sha256:19")
    assert str(caught.value) == (
        "split_rule='sha256:19' puts none of 1 group(s) into train; expected at least one; add "
        "groups, choose another split, or list the groups of each split with split_file"
    )


def test_a_split_file_places_groups_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": ["gone"]}))
    assignment = split_by_file({"a", "b", "c"}, path=path)
    assert assignment.split_of_group == {"a": "train", "b": "train", "c": "val"}
    assert assignment.notes == ("1 group(s) of split.json are not in the captures",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"train": ["a"], "val": ["a"]},
            "{path}: group 'a' is in both 'train' and 'val'; expected one split per group",
        ),
        (
            {"train": ["a"]},
            (
                "{path} leaves out 1 group(s), such as 'b'; expected every group of the captures "
                "in one split"
            ),
        ),
        (
            {"training": ["a"]},
            (
                "{path} is not a split file; expected an object with lists of groups under "
                "'train', 'val' and 'test'"
            ),
        ),
    ],
)
def test_a_wrong_split_file_is_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(HaustraError) as caught:
        split_by_file({"a", "b"}, path=path)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("ratios", "split"),
    [((1.0, 0.0, 0.0), "train"), ((0.0, 1.0, 0.0), "val"), ((0.0, 0.0, 1.0), "test")],
)
def test_a_split_with_the_whole_share_takes_every_group_without_a_note(
    ratios: tuple[float, float, float], split: SplitName
) -> None:
    assert parse_ratios(",".join(map(str, ratios))) == ratios
    assignment = split_by_ratios({f"group_{n}" for n in range(50)}, ratios=ratios)
    assert set(assignment.split_of_group.values()) == {split}
    assert assignment.notes == ()
    assert "range 0 to 1" in explain_split("group_7", split=split, method=assignment.method)


@pytest.mark.parametrize("text", ["0.8,0.1", "0.8,0.3,0.1", "a,b,c", "1.2,-0.1,-0.1"])
def test_wrong_ratios_are_named(text: str) -> None:
    with pytest.raises(HaustraError) as caught:
        parse_ratios(text)
    assert str(caught.value) == (
        f"split={text!r}: expected three shares train,val,test of at least 0 that add up to 1, "
        "such as 0.8,0.1,0.1, or 'dataset'"
    )
