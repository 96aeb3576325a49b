from dataclasses import replace

import numpy as np
import pytest

from benchmarks.kvasir.compare import parse_arguments
from benchmarks.kvasir.latency import summarize
from benchmarks.kvasir.peer import median_images_per_s, yolo_lines
from benchmarks.kvasir.results import Result, Row
from benchmarks.kvasir.scoring import Scores, suppress_overlaps
from benchmarks.kvasir.tables import accuracy_table, forms_table, origin_table
from benchmarks.measure import markdown_table
from benchmarks.sources import digest_packages, digest_source
from haustra.core.detections import Detections


def build_scores(ap50: float) -> Scores:
    return Scores(ap50=ap50, ap75=0.7, ap50_95=0.65, duplicates=0.01)


def build_row(*ap50: float) -> Row:
    result = Result(
        seed=0,
        reused=False,
        finished_at="2026-01-01 00:00:00Z",
        busy_before=None,
        epochs=80,
        images_per_s=40.0,
        scores=build_scores(0),
        dense_nms_ap50=0.91,
        shuffled_ap50=0.01,
    )
    results = (
        replace(result, seed=seed, scores=build_scores(value)) for seed, value in enumerate(ap50)
    )
    return Row(name="x", results=tuple(results))


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


def test_spread_shows_mean_half_range_and_ends() -> None:
    assert build_row(0.9, 0.92).spread(lambda e: e.scores.ap50) == "0.910 ± 0.010 (0.900..0.920)"
    assert build_row(0.9).spread(lambda e: e.scores.ap50) == "0.900"
    assert build_row(0.9, 0.92).spread(lambda e: e.int8.ap50 if e.int8 else None) == "-"


def test_tables_show_each_detector_and_what_was_reused() -> None:
    full, again = build_row(0.9, 0.92).results
    row = Row(name="BigDet", results=(full, replace(again, reused=True, int8=build_scores(0.919))))
    assert "| BigDet   | 80 ± 0 (80..80) " in accuracy_table([row])[2]
    assert "-0.0100" in accuracy_table([Row(name="x", results=(full,))])[2]
    assert len(forms_table([row])) == 2, "one seed has no int8 form"
    assert [cell.strip() for cell in origin_table([row])[2].split("|")[2:4]] == ["0", "1"]


def test_ratios_compare_times_of_the_same_round() -> None:
    seconds = np.array([[1.0, 0.5], [10.0, 5.0], [2.0, 1.0]])
    reference, other = summarize(seconds, reference=0)
    assert [reference.ratio, other.ratio] == [(1, 1, 1), (0.5, 0.5, 0.5)]
    assert other.median_ms == 1000
    assert summarize(seconds, reference=None)[1].ratio is None


def test_peer_speed_is_the_median_epoch() -> None:
    assert median_images_per_s([10, 20, 22], epoch_images=[100, 120, 24]) == 12


def test_yolo_lines_hold_center_and_size_relative_to_the_image() -> None:
    boxes = np.array([[10.0, 0.0, 30.0, 50.0]])
    assert yolo_lines(boxes, size_wh=(100, 50)) == ["0 0.200000 0.500000 0.200000 1.000000\n"]


def test_table_cells_are_aligned() -> None:
    assert markdown_table(("a", "long"), [("bb", "c")]) == [
        "| a  | long |",
        "|----|------|",
        "| bb | c    |",
    ]


def test_a_training_is_reused_after_changes_of_comments_and_docstrings_only() -> None:
    source = 'RATE = 1\n"""Learning rate."""\n\n\ndef half(x):\n    return x / 2\n'
    reworded = (
        '"""A module."""\nRATE = 1  # slow\n\ndef half(x):\n    """Halve."""\n    return x / 2\n'
    )
    assert digest_source(reworded) == digest_source(source)
    assert digest_source(source.replace("2", "3")) != digest_source(source)


def test_a_package_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="haustra has no package 'train'"):
        digest_packages(("core", "train"))


def test_the_peer_trains_as_long_as_ours_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def peer_minutes(*flags: str) -> object:
        monkeypatch.setattr("sys.argv", ["compare.py", *flags])
        return parse_arguments().peer_minutes

    assert peer_minutes("--minutes", "5") == 5
    assert peer_minutes("--minutes", "5", "--peer-minutes", "3") == 3


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "x"])
def test_minutes_are_above_zero(
    minutes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["compare.py", f"--peer-minutes={minutes}"])
    with pytest.raises(SystemExit, match="2"):
        parse_arguments()
    assert f"{minutes} is not a number of minutes above 0" in capsys.readouterr().err
