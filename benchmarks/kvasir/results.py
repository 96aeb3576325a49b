"""Settings of the comparison, and the result of each training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.kvasir.scoring import Scores
from benchmarks.measure import NOTHING

LATENCY_SIZES = (256, 384)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the whole comparison."""

    work: Path
    """Work folder, absolute."""
    minutes: float
    """Wall clock of each training, its validation not counted."""
    size: int
    """Side in pixels of the images that the detectors train on and are scored on."""
    threads: int
    """Threads of each training of haustra."""
    captures: Path
    """Run folder that the dataset was imported to."""
    manifests: Mapping[int, Path]
    """Warehouse manifests by the side of their images."""

    @property
    def time_budget(self) -> str:
        """The minutes as `haustra train --time-budget` takes them."""
        return f"{self.minutes:g}m"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One detector, trained and scored with one seed."""

    seed: int
    reused: bool
    """An earlier call of the script measured it."""
    finished_at: str
    busy_before: float | None
    """Share of the machine that other programs used when the training began."""
    epochs: int
    images_per_s: float
    scores: Scores
    dense_nms_ap50: float | None = None
    shuffled_ap50: float | None = None
    int8: Scores | None = None
    parameters: int | None = None

    @property
    def one_to_one_difference(self) -> float | None:
        """AP50 as shipped less AP50 of the dense head with overlap suppression."""
        return None if self.dense_nms_ap50 is None else self.scores.ap50 - self.dense_nms_ap50


@dataclass(frozen=True, kw_only=True)
class Row:
    """One detector over its seeds, at least one."""

    name: str
    results: tuple[Result, ...]

    def spread(self, value: Callable[[Result], float | None], *, digits: int = 3) -> str:
        """Return `mean ± half the range (lowest..highest)` of a quantity as text."""
        values = [v for v in map(value, self.results) if v is not None]
        if len(values) < len(self.results):
            return NOTHING
        if len(values) == 1:
            return f"{values[0]:.{digits}f}"
        low, high = min(values), max(values)
        return (
            f"{fmean(values):.{digits}f} ± {(high - low) / 2:.{digits}f} "
            f"({low:.{digits}f}..{high:.{digits}f})"
        )
