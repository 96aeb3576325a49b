import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haustra.core.errors import HaustraError
from haustra.warehouse.splits import parse_ratios, split_by_file, split_by_ratios, split_by_rule


def test_the_rule_puts_a_group_in_val_by_its_sha256() -> None:
    groups = {f"image_{i}" for i in range(200)}
    assignment = split_by_rule(groups, rule="sha256:5")
    for group in groups:
        in_val = int(sha256(group.encode()).hexdigest(), 16) % 5 == 0
        assert assignment.split_of_group[group] == ("val" if in_val else "train")


@given(st.sets(st.text(min_size=1, max_size=8), min_size=3, max_size=60))
def test_ratios_place_every_group_and_leave_no_wanted_split_empty(groups: set[str]) -> None:
    assignment = split_by_ratios(groups, ratios=(0.8, 0.1, 0.1))
    assert assignment.split_of_group.keys() == groups
    assert set(assignment.split_of_group.values()) == {"train", "val", "test"}


def test_an_old_group_keeps_its_split_when_groups_are_added() -> None:
    old = {f"patient_{i}" for i in range(100)}
    before = split_by_ratios(old, ratios=(0.8, 0.1, 0.1)).split_of_group
    more = old | {f"new_{i}" for i in range(100)}
    after = split_by_ratios(more, ratios=(0.8, 0.1, 0.1)).split_of_group
    assert all(after[group] == before[group] for group in old)


def test_ratios_come_out_near_what_was_asked() -> None:
    groups = {f"patient_{i}" for i in range(2000)}
    places = list(split_by_ratios(groups, ratios=(0.7, 0.2, 0.1)).split_of_group.values())
    assert abs(places.count("train") / 2000 - 0.7) < 0.03
    assert abs(places.count("val") / 2000 - 0.2) < 0.03


def test_a_split_that_cannot_be_filled_is_told() -> None:
    assignment = split_by_ratios({"only"}, ratios=(0.8, 0.1, 0.1))
    assert assignment.split_of_group == {"only": "train"}
    assert [note for note in assignment.notes if "stays empty" in note] == [
        "no group is left for split 'val': it stays empty",
        "no group is left for split 'test': it stays empty",
    ]


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
            "{path}: group 'a' stands in both 'train' and 'val'; expected one split per group",
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


@pytest.mark.parametrize("text", ["0.8,0.1", "0.8,0.3,0.1", "0,0.5,0.5", "a,b,c", "1.2,-0.1,-0.1"])
def test_wrong_ratios_are_named(text: str) -> None:
    with pytest.raises(HaustraError) as caught:
        parse_ratios(text)
    assert str(caught.value) == (
        f"--split {text!r}: expected three shares train,val,test that add up to 1, such as "
        "0.8,0.1,0.1"
    )
