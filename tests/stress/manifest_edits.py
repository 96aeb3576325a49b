"""Edits of a warehouse's manifest: valid JSON, and mostly values that could be right."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fault_scene import Case

from haustra.core.digests import digest_file

Edit = Callable[[dict[str, Any], Case], None]
PLACE = ("file", "num_bytes", "sha256", "content")
"""Fields of a shard's entry that identify its file."""


def _two_shards(
    value: dict[str, Any], case: Case, *, splits: tuple[str, str], same_size: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entries of two shards of these splits."""
    shards = value["shards"]
    pairs = [
        (one, other)
        for one in shards
        for other in shards
        if (one["split"], other["split"]) == splits
        and one is not other
        and (not same_size or one["num_samples"] == other["num_samples"])
    ]
    return case.rng.choice(pairs)


def _swap_fields(one: dict[str, Any], other: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        one[name], other[name] = other[name], one[name]


def _edit_order(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "train"), same_size=False)
    _swap_fields(one, other, tuple(one))


def _edit_test_shard_to_train(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "test"))
    _swap_fields(one, other, ("split",))


def _edit_train_entry_to_test_file(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "test"))
    _swap_fields(one, other, PLACE)


def _edit_repeat(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", case.rng.choice(["train", "test"])))
    one.update({name: other[name] for name in PLACE})


def _edit_one_split(value: dict[str, Any], case: Case) -> None:
    next(entry for entry in value["shards"] if entry["split"] == "test")["split"] = "train"
    case.rng.shuffle(value["shards"])


def _edit_drop(value: dict[str, Any], case: Case) -> None:
    value["shards"].pop(case.rng.randrange(len(value["shards"])))


def _edit_num_samples(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "train"))
    one["num_samples"] += 1
    other["num_samples"] -= case.rng.choice([0, 1])


def _edit_content(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "train"))
    _swap_fields(one, other, ("content",))


def _edit_sha256(value: dict[str, Any], case: Case) -> None:
    one, other = _two_shards(value, case, splits=("train", "test"))
    one["sha256"] = other["sha256"]


def _edit_to_other_pixels(value: dict[str, Any], case: Case) -> None:
    """Make a shard's entry name the other version's shard of the same frames."""
    second = json.loads((case.root / case.scene.second / "manifest.json").read_text())
    at = [
        index
        for index, (one, other) in enumerate(zip(value["shards"], second["shards"], strict=True))
        if one != other
    ]
    entry = value["shards"][at[0]]
    entry.update(second["shards"][at[0]])
    entry["file"] = f"../{case.scene.second}/{entry['file']}"
    entry["content"] = f"{entry['content'][::-1]}"


def _edit_to_other_table(value: dict[str, Any], case: Case) -> None:
    file = f"../{case.scene.second}/samples.parquet"
    value["table"] = {"file": file, "sha256": digest_file(case.folder / file)}


def _edit_move_group(value: dict[str, Any], case: Case) -> None:
    """Move a group from test to train, in the manifest and in the table, with its new digest."""
    path = case.folder / "samples.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    group = case.rng.choice([row["group_id"] for row in rows if row["split"] == "test"])
    moved = [row for row in rows if row["group_id"] == group]
    for row in moved:
        row["split"] = "train"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    value["table"]["sha256"] = digest_file(path)
    for entry in value["shards"]:
        if entry["file"] in {row["shard"] for row in moved}:
            entry["split"] = "train"
    boxes = [row["boxes_after"] for row in moved]
    for name, sign in (("train", 1), ("test", -1)):
        counts = value["splits"][name]
        counts["samples"] += sign * len(moved)
        counts["boxes"] += sign * sum(boxes)
        counts["empty"] += sign * boxes.count(0)
        counts["groups"] += sign


def _edit_target_size(value: dict[str, Any], case: Case) -> None:
    width, height = value["target_size_wh"]
    value["target_size_wh"] = case.rng.choice([[height, width], [2 * width, 2 * height]])


def _edit_counts(value: dict[str, Any], case: Case) -> None:
    counts = value["splits"][case.rng.choice(["train", "val", "test"])]
    counts[case.rng.choice(list(counts))] += 1


def _edit_source(value: dict[str, Any], case: Case) -> None:
    source = case.rng.choice(value["sources"])
    source[case.rng.choice(["licence", "dataset", "run_id"])] = "other"


def _edit_split_method(value: dict[str, Any], case: Case) -> None:
    value["split_method"] = case.rng.choice(
        ["ratios 0.8,0.1,0.1", "rule sha256:5", "file", "dataset"]
    )


def _edit_validation(value: dict[str, Any], case: Case) -> None:
    value["validation"]["total"][case.rng.choice(list(value["validation"]["total"]))] += 1


def _set(name: str, *options: Any) -> Edit:
    def edit(value: dict[str, Any], case: Case) -> None:
        value[name] = case.rng.choice(options)

    return edit


def _edit_version(value: dict[str, Any], case: Case) -> None:
    value["version"] = case.scene.second.removeprefix("v")


EDITS: dict[str, Edit] = {
    "two training shards in the other order": _edit_order,
    "a training and a test shard swap their splits": _edit_test_shard_to_train,
    "a training and a test shard swap their files": _edit_train_entry_to_test_file,
    "a shard's entry repeats another's file": _edit_repeat,
    "a test shard called a training shard": _edit_one_split,
    "a shard left out": _edit_drop,
    "num_samples changed": _edit_num_samples,
    "two shards swap their content": _edit_content,
    "sha256 of another shard": _edit_sha256,
    "a shard of another version, other pixels": _edit_to_other_pixels,
    "the table of another version": _edit_to_other_table,
    "a group moved from test to train, table and counts alike": _edit_move_group,
    "target_size_wh changed": _edit_target_size,
    "resize_mode changed": _set("resize_mode", "force"),
    "max_boxes changed": _set("max_boxes", 3, 5, 16),
    "class_names changed": _set("class_names", ["adenoma"], [], ["polyp", "other"]),
    "version changed": _edit_version,
    "format_version changed": _set("format_version", 2),
    "counts of a split changed": _edit_counts,
    "a source's terms changed": _edit_source,
    "split_method changed": _edit_split_method,
    "samples_per_shard changed": _set("samples_per_shard", 6, 256),
    "truncated_boxes changed": _set("truncated_boxes", 1),
    "validation changed": _edit_validation,
    "keys in the other order": lambda value, _: value.update(
        {name: value.pop(name) for name in reversed(list(value))}
    ),
}


def edit_manifest(case: Case, *, name: str) -> None:
    """Make one of `EDITS` in the first version's manifest."""
    value = case.read_manifest()
    EDITS[name](value, case)
    case.manifest.write_text(json.dumps(value, indent=2) + "\n")
