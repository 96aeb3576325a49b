"""Assigning groups to train, val and test: deterministic, and never cutting a group."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from haustra.captures.reader import Run
from haustra.core.errors import HaustraError, name_some, option
from haustra.core.files import read_json
from haustra.warehouse.format import SPLIT_NAMES, SplitName

BY_DATASET = "dataset"
"""Value of `--split` that takes the splits stated by the runs, and the method's name."""

BY_SIMILAR = " similar"
"""End of the method's name where groups with images that look alike were merged first."""


@dataclass(frozen=True, kw_only=True)
class SplitAssignment:
    """The split of every group, and how it was decided."""

    split_of_group: dict[str, SplitName]
    method: str
    notes: tuple[str, ...] = ()


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Parse `--split`, such as `0.8,0.1,0.1`."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        train = val = test = float("nan")
    if not (min(train, val, test) >= 0 and abs(train + val + test - 1) < 1e-6):
        raise HaustraError(
            f"{option('split', text)}: expected three shares train,val,test of at least 0 that "
            f"add up to 1, such as 0.8,0.1,0.1, or {BY_DATASET!r}"
        )
    return train, val, test


def parse_rule(text: str) -> int:
    """Parse `--split-rule`, such as `sha256:5`, and return its modulus."""
    name, _, modulus = text.partition(":")
    if name != "sha256" or not modulus.isdecimal() or int(modulus) < 2:
        raise HaustraError(
            f"{option('split_rule', text)}: expected sha256:N with N of at least 2, such as "
            "sha256:5"
        )
    return int(modulus)


def group_hash(group_id: str) -> int:
    """Return the SHA-256 of a group's name as a number below 2**256."""
    return int(sha256(group_id.encode()).hexdigest(), 16)


def group_position(group_id: str) -> float:
    """Return a group's hash scaled to 0..1, for comparison with the split ratios."""
    return group_hash(group_id) / 2**256


def _range_at(position: float, *, ratios: Sequence[float]) -> tuple[SplitName, float, float]:
    """Return the split whose range holds a position in 0..1, with the range's begin and end."""
    ends = (ratios[0], ratios[0] + ratios[1], 1.0)
    ranges = zip(SPLIT_NAMES, (0.0, *ends), ends, strict=False)
    return next(found for found in ranges if position < found[2] or found[2] == 1)


def explain_split(group_id: str, *, split: SplitName, method: str) -> str:
    """Return the reason why a group is in its split, given the manifest's `split_method`."""
    kind, _, setting = method.removesuffix(BY_SIMILAR).partition(" ")
    if kind == "ratios":
        # `parse_ratios` may refuse them: the manifest rounds them, so their sum can miss 1 by more.
        ratios = [float(part) for part in setting.split(",")]
        position = group_position(group_id)
        own, begin, end = _range_at(position, ratios=ratios)
        text = f"the group's hash {position:.6f} lies in {own}'s range {begin:g} to {end:g}"
    elif kind == "rule":
        modulus = parse_rule(setting)
        rest = group_hash(group_id) % modulus
        own = "train" if rest else "val"
        text = f"the group's hash modulo {modulus} is {rest}; 0 is val, any other train"
    elif kind == BY_DATASET:
        return f"the dataset puts the group's runs into {split!r}"
    else:
        return f"the split file lists the group under {split!r}"
    return text if own == split else f"{text}, but it is in {split}"


def _check_filled(
    split_of_group: dict[str, SplitName], *, wanted: list[SplitName], method: str, setting: str
) -> tuple[str, ...]:
    """Return a note for every wanted split without a group."""
    num_groups = len(split_of_group)
    empty = [name for name in wanted if name not in split_of_group.values()]
    if "train" in empty:
        raise HaustraError(
            f"{setting} puts none of {num_groups} group(s) into train; expected at least one; add "
            f"groups, choose another {option('split')}, or list the groups of each split with "
            f"{option('split_file')}"
        )
    return tuple(
        f"split {name!r} is empty: by {method} none of {num_groups} group(s) goes there; add "
        "groups, choose another split, or list the groups of each split in a split file"
        for name in empty
    )


def split_by_ratios(groups: set[str], *, ratios: tuple[float, float, float]) -> SplitAssignment:
    """Place each group by its hash in 0..1 against the cumulated ratios.

    A group's place depends on its own name alone, so it stays when groups are added or removed. A
    split whose ratio is above 0 but that no group falls into is named in a note.
    """
    split_of_group = {group: _range_at(group_position(group), ratios=ratios)[0] for group in groups}
    text = ",".join(f"{ratio:.12g}" for ratio in ratios)
    wanted = [name for name, ratio in zip(SPLIT_NAMES, ratios, strict=True) if ratio > 0]
    method = f"ratios {text}"
    notes = _check_filled(
        split_of_group, wanted=wanted, method=method, setting=option("split", text)
    )
    return SplitAssignment(split_of_group=split_of_group, method=method, notes=notes)


def split_by_rule(groups: set[str], *, rule: str) -> SplitAssignment:
    """Place each group in val if `int(sha256(group), 16) % N == 0`, else in train."""
    modulus = parse_rule(rule)
    split_of_group: dict[str, SplitName] = {
        group: "val" if group_hash(group) % modulus == 0 else "train" for group in groups
    }
    method, setting = f"rule {rule}", option("split_rule", rule)
    notes = _check_filled(split_of_group, wanted=["train", "val"], method=method, setting=setting)
    return SplitAssignment(split_of_group=split_of_group, method=method, notes=notes)


def split_by_dataset(runs: Sequence[Run]) -> SplitAssignment:
    """Place each group in the split that its runs state.

    Raises:
        HaustraError: A run states none, or the runs of a group state several.
    """
    other_ways = (
        f"{option('split', '0.8,0.1,0.1')}, or list the groups of each split with "
        f"{option('split_file')}"
    )
    without = [run.run_id for run in runs if run.manifest.split is None]
    if without:
        raise HaustraError(
            f"{option('split', BY_DATASET)}: {len(without)} of {len(runs)} run(s) state no split: "
            f"{name_some(without)}; import them with {option('split', 'train')}, {'val'!r} or "
            f"{'test'!r}, or use {other_ways}"
        )
    first: dict[str, Run] = {}
    cut: dict[str, str] = {}
    for run in runs:
        for frame in run.frames:
            other = first.setdefault(frame.group_id, run)
            if other.manifest.split != run.manifest.split:
                cut[frame.group_id] = (
                    f"{frame.group_id!r} (run {other.run_id!r} is in {other.manifest.split!r}, "
                    f"run {run.run_id!r} in {run.manifest.split!r})"
                )
    if cut:
        more = f" and {len(cut) - 10} more" if len(cut) > 10 else ""
        raise HaustraError(
            f"{option('split', BY_DATASET)} cuts {len(cut)} group(s): "
            f"{', '.join(list(cut.values())[:10])}{more}; expected one split per group, since "
            f"frames of one group look alike; use {other_ways}, or leave out the runs of one split"
        )
    split_of_group = {group: run.manifest.split or "train" for group, run in first.items()}
    notes = tuple(
        f"split {name!r} is empty: the dataset puts none of {len(first)} group(s) there"
        for name in SPLIT_NAMES
        if name not in split_of_group.values()
    )
    return SplitAssignment(split_of_group=split_of_group, method=BY_DATASET, notes=notes)


def note_unused_splits(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return a note on the splits that runs state, for an ETL that makes its own."""
    stated = Counter(run.manifest.split for run in runs if run.manifest.split)
    if not stated:
        return ()
    counts = ", ".join(f"{name} {stated[name]}" for name in SPLIT_NAMES if stated[name])
    return (
        f"the dataset states splits (runs: {counts}), which are not used here; "
        f"--split {BY_DATASET} uses them",
    )


def split_by_file(groups: set[str], *, path: Path) -> SplitAssignment:
    """Place groups as a JSON file says: `{"train": [groups], "val": [...], "test": [...]}`."""
    content = read_json(path, what="a split file")
    if (
        not isinstance(content, dict)
        or not content.keys() <= set(SPLIT_NAMES)
        or not all(isinstance(names, list) for names in content.values())
    ):
        raise HaustraError(
            f"{path} is not a split file; expected an object with lists of groups under "
            "'train', 'val' and 'test'"
        )
    split_of_group: dict[str, SplitName] = {}
    for split in SPLIT_NAMES:
        for group in content.get(split, []):
            if group in split_of_group:
                raise HaustraError(
                    f"{path}: group {group!r} is in both {split_of_group[group]!r} and "
                    f"{split!r}; expected one split per group"
                )
            split_of_group[group] = split
    without = sorted(groups - split_of_group.keys())
    if without:
        raise HaustraError(
            f"{path} leaves out {len(without)} group(s), such as {without[0]!r}; expected every "
            "group of the captures in one split"
        )
    unknown = len(split_of_group.keys() - groups)
    notes = (f"{unknown} group(s) of {path.name} are not in the captures",) if unknown else ()
    return SplitAssignment(
        split_of_group={group: split_of_group[group] for group in groups},
        method="file",
        notes=notes,
    )
