"""The tables and the bars of the comparison, from what was measured. Measures nothing itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kvasir_latency import Latency
from kvasir_scoring import Scores

INT8_MAX_AP50_LOSS = 0.005
FORMS = ("float32", "int8")
NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class SeedEntry:
    """One detector trained once."""

    seed: int
    reused: bool
    """Measured by an earlier call of the script."""
    finished_at: str
    epochs: int
    images_per_s: float
    scores: Scores
    dense_nms_ap50: float | None = None
    shuffled_ap50: float | None = None
    int8: Scores | None = None
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One detector over its seeds, at least one."""

    name: str
    seeds: tuple[SeedEntry, ...]

    def mean(self, value: Callable[[SeedEntry], float | None]) -> float | None:
        """Return the mean of a quantity over the seeds, or None where one lacks it."""
        values = [value(entry) for entry in self.seeds]
        known = [v for v in values if v is not None]
        return fmean(known) if len(known) == len(values) else None

    def spread(self, value: Callable[[SeedEntry], float | None], *, digits: int = 3) -> str:
        """Return `mean ± half the spread (lowest..highest)` of a quantity as text."""
        values = [v for v in map(value, self.seeds) if v is not None]
        if len(values) < len(self.seeds):
            return NOTHING
        if len(values) == 1:
            return f"{values[0]:.{digits}f}"
        low, high = min(values), max(values)
        return (
            f"{fmean(values):.{digits}f} ± {(high - low) / 2:.{digits}f} "
            f"({low:.{digits}f}..{high:.{digits}f})"
        )


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One form of one detector at one size of images."""

    key: str
    name: str
    form: str
    size: int
    latency: Latency


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One number of the issue to reach, and what was measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool
    """The value must be at least the limit; else at most."""
    strictly: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where it was not measured."""
        if self.value is None:
            return None
        # Rounded, so that a value at the limit does not fail by its last binary digit.
        distance = round(self.value - self.limit, 9)
        return not self.strictly if distance == 0 else (distance > 0) == self.at_least

    @property
    def wanted(self) -> str:
        """The limit as text."""
        sign = (">" if self.at_least else "<") if self.strictly else "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}"


def one_to_one_difference(entry: SeedEntry) -> float | None:
    """Return AP50 as shipped less AP50 of the dense head with suppression."""
    if entry.dense_nms_ap50 is None:
        return None
    return entry.scores.ap50 - entry.dense_nms_ap50


def shipped_form(row: Row) -> str:
    """Return the form to ship: int8 where its AP50 is close enough to float32's."""
    quantised = row.mean(lambda entry: entry.int8.ap50 if entry.int8 else None)
    full = row.mean(lambda entry: entry.scores.ap50)
    if quantised is None or full is None:
        return "float32"
    loss = Bar(text="int8", value=full - quantised, limit=INT8_MAX_AP50_LOSS, at_least=False)
    return "int8" if loss.met else "float32"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table as lines, its columns aligned for reading as text."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (columns, *rows)
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def accuracy_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of what each detector reaches, a line per detector."""
    columns = (
        "detector",
        "epochs",
        "images/s",
        "AP50",
        "AP75",
        "AP50-95",
        "duplicates",
        "one-to-one less dense + NMS",
        "AP50, labels shuffled",
    )
    return markdown_table(
        columns,
        [
            (
                row.name,
                row.spread(lambda entry: entry.epochs, digits=0),
                row.spread(lambda entry: entry.images_per_s, digits=1),
                row.spread(lambda entry: entry.scores.ap50),
                row.spread(lambda entry: entry.scores.ap75),
                row.spread(lambda entry: entry.scores.ap50_95),
                row.spread(lambda entry: entry.scores.duplicates),
                row.spread(one_to_one_difference, digits=4),
                row.spread(lambda entry: entry.shuffled_ap50),
            )
            for row in rows
        ],
    )


def forms_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of float32 against int8, a line per detector that has both."""
    both = [row for row in rows if all(entry.int8 for entry in row.seeds)]
    return markdown_table(
        ("detector", "parameters", "AP50", "AP50, int8", "AP50-95", "AP50-95, int8", "we ship"),
        [
            (
                row.name,
                f"{row.seeds[0].parameters or 0:,}",
                row.spread(lambda entry: entry.scores.ap50, digits=4),
                row.spread(lambda entry: entry.int8.ap50 if entry.int8 else None, digits=4),
                row.spread(lambda entry: entry.scores.ap50_95, digits=4),
                row.spread(lambda entry: entry.int8.ap50_95 if entry.int8 else None, digits=4),
                shipped_form(row),
            )
            for row in both
        ],
    )


def origin_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of which trainings are of this call and which of an earlier one."""

    def seeds_text(entries: Sequence[SeedEntry]) -> str:
        return ", ".join(str(entry.seed) for entry in entries) or "none"

    return markdown_table(
        ("detector", "seeds trained now", "seeds reused", "trainings finished"),
        [
            (
                row.name,
                seeds_text([entry for entry in row.seeds if not entry.reused]),
                seeds_text([entry for entry in row.seeds if entry.reused]),
                " to ".join(sorted({times[0], times[-1]})),
            )
            for row in rows
            for times in [sorted(entry.finished_at for entry in row.seeds)]
        ],
    )


def latency_table(latencies: Sequence[LatencyRow]) -> list[str]:
    """Return the table of latencies, a line per form of a detector and size."""

    def ratio_text(latency: Latency) -> str:
        if latency.ratio is None:
            return NOTHING
        low, middle, high = latency.ratio
        return f"{middle:.3f} ({low:.3f}..{high:.3f})"

    return markdown_table(
        ("size", "detector", "form", "median ms", "ratio to YOLO11n (quartiles)"),
        [
            (
                str(row.size),
                row.name,
                row.form,
                f"{row.latency.median_ms:.2f}",
                ratio_text(row.latency),
            )
            for row in latencies
        ],
    )


def _accuracy_bars(key: str, row: Row | None, limits: Mapping[str, float]) -> list[Bar]:
    """Return the bars on AP50 and AP50-95, and the same of int8 where that is what we ship."""
    bars = []
    for text, limit in limits.items():
        name = {"AP50": "ap50", "AP50-95": "ap50_95"}[text]

        def of_float32(entry: SeedEntry, name: str = name) -> float | None:
            return float(getattr(entry.scores, name))

        def of_int8(entry: SeedEntry, name: str = name) -> float | None:
            return float(getattr(entry.int8, name)) if entry.int8 else None

        value = row.mean(of_float32) if row else None
        bars.append(Bar(text=f"{key}: {text}", value=value, limit=limit, at_least=True))
        if row and shipped_form(row) == "int8":
            text = f"{key}: {text}, in the shipped form (int8)"
            bars.append(Bar(text=text, value=row.mean(of_int8), limit=limit, at_least=True))
    return bars


def _slot_bars(key: str, row: Row | None) -> list[Bar]:
    """Return the bars on what inference without suppression costs."""
    difference = row.mean(one_to_one_difference) if row else None
    duplicates = row.mean(lambda entry: entry.scores.duplicates) if row else None
    return [
        Bar(
            text=f"{key}: AP50 that one-to-one loses against dense + NMS",
            value=None if difference is None else -difference,
            limit=0.005,
            at_least=False,
        ),
        Bar(
            text=f"{key}: duplicates per labelled polyp",
            value=duplicates,
            limit=0.05,
            at_least=False,
        ),
    ]


def _latency_bars(
    key: str,
    row: Row | None,
    latencies: Sequence[LatencyRow],
    *,
    sizes: Sequence[int],
    limit: float,
) -> list[Bar]:
    """Return the bars on latency, in the form that we ship."""
    form = shipped_form(row) if row else NOTHING
    ratios = {
        entry.size: entry.latency.ratio[1]
        for entry in latencies
        if entry.key == key and entry.form == form and entry.latency.ratio
    }
    return [
        Bar(
            text=f"{key}: latency / YOLO11n's at {size} ({form})",
            value=ratios.get(size),
            limit=limit,
            at_least=False,
        )
        for size in sizes
    ]


def build_bars(
    rows: Mapping[str, Row], latencies: Sequence[LatencyRow], *, sizes: Sequence[int]
) -> list[Bar]:
    """Return every bar of the issue with the mean over the seeds.

    Args:
        rows: the detectors by key: `bigdet`, `bigdet-pretrained`, `tinydet`, `yolo11n`.
        latencies: what was timed.
        sizes: at which latency has bars.
    """
    big, peer = rows.get("bigdet"), rows.get("yolo11n")
    speed = big.mean(lambda entry: entry.images_per_s) if big else None
    peer_speed = peer.mean(lambda entry: entry.images_per_s) if peer else None
    limits = {
        "bigdet": {"AP50": 0.90, "AP50-95": 0.64},
        "bigdet-pretrained": {"AP50": 0.93, "AP50-95": 0.67},
        "tinydet": {"AP50": 0.65},
    }
    bars = [bar for key in limits for bar in _accuracy_bars(key, rows.get(key), limits[key])]
    bars += [bar for key in limits for bar in _slot_bars(key, rows.get(key))]
    for key, limit in (("bigdet", 0.8), ("bigdet-pretrained", 0.8), ("tinydet", 0.15)):
        bars += _latency_bars(key, rows.get(key), latencies, sizes=sizes, limit=limit)
    bars.append(
        Bar(
            text="bigdet: training images/s / YOLO11n's",
            value=speed / peer_speed if speed and peer_speed else None,
            limit=3,
            at_least=True,
        )
    )
    for key in limits:
        row = rows.get(key)
        shuffled = row.mean(lambda entry: entry.shuffled_ap50) if row else None
        text = f"{key}: AP50 with shuffled labels"
        bars.append(Bar(text=text, value=shuffled, limit=0.05, at_least=False, strictly=True))
    return bars


def bars_table(bars: Sequence[Bar]) -> list[str]:
    """Return the table of bars, a line each."""
    verdicts = {True: "met", False: "MISSED", None: "not measured"}
    return markdown_table(
        ("bar", "wanted", "measured", ""),
        [
            (
                bar.text,
                bar.wanted,
                NOTHING if bar.value is None else f"{bar.value:.4f}",
                verdicts[bar.met],
            )
            for bar in bars
        ],
    )


def summary_line(bars: Sequence[Bar]) -> str:
    """Say in one line how many bars were met."""
    met, missed = (sum(bar.met is verdict for bar in bars) for verdict in (True, False))
    rest = len(bars) - met - missed
    text = f"{met} of {len(bars)} bars met, {missed} MISSED"
    return text + (f", {rest} not measured" if rest else "")
