"""`ETLConfig`: every setting of `haustra etl`, declared once."""

from dataclasses import dataclass
from pathlib import Path

from haustra.core.checked import CheckedSettings, CountFromOne, OutputFolder, Share
from haustra.core.errors import HaustraError, option
from haustra.core.letterbox import ResizeMode
from haustra.core.look_alikes import GroupBy
from haustra.warehouse.splits import BY_DATASET, parse_ratios, parse_rule


@dataclass(frozen=True, kw_only=True)
class ETLConfig(CheckedSettings):
    """Settings of `haustra etl`."""

    captures: Path = Path("captures_filtered")
    """Capture root to read, or one run folder."""
    output_root: OutputFolder = Path("artifacts/tensor_warehouse")
    """Folder of the warehouses; the new one is its subfolder v{version}."""
    target_size: str = "384"
    """Size of the stored images in pixels: one number for a square, or WIDTHxHEIGHT."""
    resize_mode: ResizeMode = "letterbox"
    """letterbox keeps the aspect ratio and pads; force stretches."""
    max_boxes: CountFromOne = 16
    """Largest number of boxes stored per image; the largest boxes are kept."""
    split: str = "0.8,0.1,0.1"
    """Shares of train,val,test, which add up to 1; groups are never cut. `dataset` takes the splits
    that the dataset states, which `haustra import` stored."""
    split_file: Path | None = None
    """JSON file that lists the groups of each split, instead of --split."""
    split_rule: str | None = None
    """Rule instead of --split: sha256:5 puts a group in val if its sha256 modulo 5 is 0."""
    group_by: GroupBy | None = None
    """similar merges, before the split, groups with images that look alike; none is cut."""
    max_invalid: str = "0.1"
    """Fail if more frames are invalid: a count such as 20, or a share such as 0.1 or 10%."""
    max_missing: str = "0.1"
    """Fail if more frames lack their image: a count or a share."""
    max_empty: str = "1.0"
    """Fail if more usable frames have no box: a count or a share."""
    empty_ratio: Share = 1.0
    """Share of the frames without a box to keep, 0 to 1, chosen by a digest of each one's name."""
    samples_per_shard: CountFromOne = 256
    """Largest number of samples in a shard file; a shard holds one run and one split."""
    jobs: CountFromOne = 2
    """Number of threads that decode and resize; more than the CPU cores do not help."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_target_size(self.target_size)
        if self.split != BY_DATASET:
            parse_ratios(self.split)
        if self.split_rule is not None:
            parse_rule(self.split_rule)
        given = {
            option("split", BY_DATASET): self.split == BY_DATASET,
            option("split_rule"): self.split_rule is not None,
            option("split_file"): self.split_file is not None,
        }
        if sum(given.values()) > 1:
            names = " and ".join(name for name, is_given in given.items() if is_given)
            raise HaustraError(f"{names}: expected one of them")
        if self.split_file is not None and self.group_by is not None:
            raise HaustraError(
                f"{option('split_file')} and {option('group_by', self.group_by)}: expected one of "
                "them, since a file lists the groups as the captures state them"
            )
        for name in ("max_invalid", "max_missing", "max_empty"):
            parse_threshold(getattr(self, name), name=name)


def parse_target_size(text: str) -> tuple[int, int]:
    """Parse `384` or `640x480` to width and height in pixels."""
    parts = text.lower().split("x")
    sides = (parts[0], parts[-1]) if len(parts) <= 2 else ("", "")
    if not all(side.isdecimal() and int(side) > 0 and int(side) % 32 == 0 for side in sides):
        raise HaustraError(
            f"{option('target_size', text)}: expected a positive multiple of 32, such as 384, or "
            "WIDTHxHEIGHT"
        )
    return int(sides[0]), int(sides[1])


def parse_threshold(text: str, *, name: str) -> tuple[float, bool]:
    """Parse a count (`20`) or share (`0.1`, `10%`) to its value and whether it is a share."""
    if text.isdecimal():
        return float(text), False
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise HaustraError(
            f"{option(name, text)}: expected a count such as 20, or a share from 0 to 1 such as "
            "0.1 or 10%"
        )
    return share, True
