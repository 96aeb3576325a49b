from dataclasses import replace

import numpy as np
import pytest

from haustra.core.detections import Detections
from kvasir_latency import Latency, summarise
from kvasir_ours import digest_source
from kvasir_peer import median_images_per_s, yolo_lines
from kvasir_scoring import Scores, suppress_overlaps
from kvasir_tables import (
    Bar,
    LatencyRow,
    Row,
    SeedEntry,
    build_bars,
    markdown_table,
    shipped_form,
    summary_line,
)
from kvasir_vs_yolo import parse_arguments

SIZES = (256, 384)


def build_scores(ap50: float) -> Scores:
    return Scores(ap50=ap50, ap75=0.7, ap50_95=0.65, duplicates=0.01)


def build_row(*ap50: float, int8_ap50: float | None = None, images_per_s: float = 40.0) -> Row:
    entry = SeedEntry(
        seed=0,
        reused=False,
        finished_at="2026-01-01 00:00:00Z",
        epochs=80,
        images_per_s=images_per_s,
        scores=build_scores(0),
        dense_nms_ap50=0.91,
        shuffled_ap50=0.01,
        int8=None if int8_ap50 is None else build_scores(int8_ap50),
    )
    return Row(
        name="x",
        seeds=tuple(
            replace(entry, seed=seed, scores=build_scores(value)) for seed, value in enumerate(ap50)
        ),
    )


def test_suppression_keeps_what_detections_would_keep() -> None:
    generator = np.random.default_rng(0)
    low = generator.random((3, 60, 2)) * 0.5
    boxes = np.concatenate([low, low + 0.1 + generator.random((3, 60, 2)) * 0.3], axis=2)
    scores = generator.random((3, 60))
    found_boxes, found_scores = suppress_overlaps(
        boxes.astype(np.float32), scores.astype(np.float32), iou=0.4, num_kept=60
    )
    for image in range(3):
        order = np.argsort(-scores[image])
        expected = Detections(
            boxes_px=boxes[image][order], scores=scores[image][order], image_size_wh=(1, 1)
        ).without_overlaps(0.4)
        kept = found_scores[image] > 0
        assert kept.sum() == len(expected)
        np.testing.assert_allclose(found_scores[image][kept], expected.scores, rtol=1e-6)
        np.testing.assert_allclose(found_boxes[image][kept], expected.boxes_px, rtol=1e-6)
        assert not found_boxes[image][~kept].any()


def test_suppression_returns_as_many_boxes_as_asked() -> None:
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 9, 1))
    found, scores = suppress_overlaps(boxes, np.full((2, 9), 0.5, np.float32), iou=0.5, num_kept=4)
    assert found.shape == (2, 4, 4)
    assert scores.tolist() == [[0.5, 0, 0, 0]] * 2


def test_spread_shows_mean_half_spread_and_ends() -> None:
    assert build_row(0.9, 0.92).spread(lambda e: e.scores.ap50) == "0.910 ± 0.010 (0.900..0.920)"
    assert build_row(0.9).spread(lambda e: e.scores.ap50) == "0.900"
    assert build_row(0.9, 0.92).spread(lambda e: e.int8.ap50 if e.int8 else None) == "-"


@pytest.mark.parametrize(
    ("int8_ap50", "form"), [(0.9, "int8"), (0.895, "int8"), (0.894, "float32"), (None, "float32")]
)
def test_int8_ships_only_where_it_costs_little(int8_ap50: float | None, form: str) -> None:
    assert shipped_form(build_row(0.9, 0.9, int8_ap50=int8_ap50)) == form


def test_a_bar_holds_at_its_limit_unless_strict() -> None:
    bar = Bar(text="x", value=0.05, limit=0.05, at_least=False)
    above = replace(bar, value=0.06)
    bars = [bar, replace(bar, strictly=True), above, replace(above, at_least=True)]
    assert [found.met for found in bars] == [True, False, False, True]
    assert replace(bar, value=None).met is None


def test_bars_read_the_means_and_the_shipped_form() -> None:
    rows = {
        "bigdet": build_row(0.89, 0.92, int8_ap50=0.903),
        "yolo11n": build_row(0.8, images_per_s=10),
    }
    latencies = [
        LatencyRow(
            key="bigdet",
            name="x",
            form=form,
            size=256,
            latency=Latency(median_ms=1, ratio=(0, ratio, 2)),
        )
        for form, ratio in (("float32", 1.1), ("int8", 0.6))
    ]
    bars = {bar.text: bar for bar in build_bars(rows, latencies, sizes=SIZES)}
    assert bars["bigdet: AP50"].value == pytest.approx(0.905)
    assert bars["bigdet: AP50, in the shipped form (int8)"].value == pytest.approx(0.903)
    assert bars["bigdet: AP50 that one-to-one loses against dense + NMS"].met is True
    assert bars["bigdet: latency / YOLO11n's at 256 (int8)"].value == 0.6
    assert bars["bigdet: latency / YOLO11n's at 384 (int8)"].met is None
    assert bars["bigdet: training images/s / YOLO11n's"].value == pytest.approx(4)
    assert bars["tinydet: AP50"].met is None


def test_summary_counts_met_missed_and_unmeasured() -> None:
    bar = Bar(text="x", value=1, limit=1, at_least=True)
    bars = [bar, replace(bar, value=0), replace(bar, value=None)]
    assert summary_line(bars) == "1 of 3 bars met, 1 MISSED, 1 not measured"


def test_ratios_are_of_the_same_round() -> None:
    seconds = np.array([[1.0, 0.5], [10.0, 5.0], [2.0, 1.0]])
    reference, other = summarise(seconds, reference=0)
    assert [reference.ratio, other.ratio] == [(1, 1, 1), (0.5, 0.5, 0.5)]
    assert other.median_ms == 1000
    assert summarise(seconds, reference=None)[1].ratio is None


def test_peer_speed_is_the_median_epoch() -> None:
    assert median_images_per_s([10, 20, 22], epoch_images=[100, 120, 24]) == 12


def test_yolo_lines_are_centre_and_size_in_the_image() -> None:
    boxes = np.array([[10.0, 0.0, 30.0, 50.0]])
    assert yolo_lines(boxes, size_wh=(100, 50)) == ["0 0.200000 0.500000 0.200000 1.000000\n"]


def test_table_cells_are_aligned() -> None:
    assert markdown_table(("a", "long"), [("bb", "c")]) == [
        "| a  | long |",
        "|----|------|",
        "| bb | c    |",
    ]


def test_a_training_is_reused_after_changes_of_comments_and_docstrings_only() -> None:
    source = 'RATE = 1\n"""Of learning."""\n\n\ndef half(x):\n    return x / 2\n'
    reworded = (
        '"""A module."""\nRATE = 1  # slow\n\ndef half(x):\n    """Halve."""\n    return x / 2\n'
    )
    assert digest_source(reworded) == digest_source(source)
    assert digest_source(source.replace("2", "3")) != digest_source(source)


def test_the_peer_trains_as_long_as_ours_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def peer_minutes(*flags: str) -> object:
        monkeypatch.setattr("sys.argv", ["kvasir_vs_yolo.py", *flags])
        return parse_arguments().peer_minutes

    assert peer_minutes("--minutes", "5") == 5
    assert peer_minutes("--minutes", "5", "--peer-minutes", "3") == 3


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "x"])
def test_minutes_are_above_zero(
    minutes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kvasir_vs_yolo.py", f"--peer-minutes={minutes}"])
    with pytest.raises(SystemExit, match="2"):
        parse_arguments()
    assert f"{minutes} is not a number of minutes above 0" in capsys.readouterr().err
