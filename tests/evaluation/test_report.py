import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.cli.main import main
from haustra.core.detections import Detections, PredictSlots, Slots
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.evaluation import Evaluation, evaluate_frames
from haustra.evaluation.frames import EvalFrame, SplitFrames
from haustra.evaluation.gallery import choose_examples, spread_evenly, write_gallery
from haustra.evaluation.metrics import box_metrics
from haustra.evaluation.results import EvaluationResult
from haustra.evaluation.stage import evaluate_detector
from haustra.inference.detector import Detector
from haustra.inference.heuristic import heuristic_detector
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.warehouse.dataset import open_split
from haustra.warehouse.format import read_manifest
from scenes import write_captures, write_warehouse
from scored_boxes import frame

SIZE_WH = (100, 100)


def detections(*boxes_and_scores: tuple[list[float], float]) -> Detections:
    boxes = np.array([box for box, _ in boxes_and_scores], dtype=np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in boxes_and_scores], dtype=np.float64)
    return Detections(boxes_px=boxes, scores=scores, image_size_wh=SIZE_WH)


def frames_of(truths: list[Detections]) -> list[EvalFrame]:
    """Return frames in no known order."""
    return [replace(frame(0, truth), number=None) for truth in truths]


SMALL, LARGE = [10.0, 10.0, 20.0, 20.0], [30.0, 30.0, 80.0, 80.0]


def test_mistakes_come_worst_first_and_duplicates_are_none() -> None:
    pairs = [
        (detections((SMALL, 1)), detections((SMALL, 0.9), (SMALL, 0.8))),  # found, twice
        (detections((SMALL, 1)), detections()),
        (detections((SMALL, 1), (LARGE, 1)), detections((SMALL, 0.9))),
        (detections(), detections((SMALL, 0.5))),
        (detections(), detections((SMALL, 0.95), (LARGE, 0.1))),
        (detections(), detections((LARGE, 0.2))),  # below the threshold
    ]
    truths, predictions = map(list, zip(*pairs, strict=True))
    evaluation = Evaluation(
        metrics=box_metrics(truths, predictions, threshold=0.3),
        truths=truths,
        predictions=predictions,
        frames=frames_of(truths),
    )
    examples = choose_examples(evaluation)
    assert (examples.misses, examples.false_alarms) == ([2, 1], [4, 3])
    assert choose_examples(evaluation, count=1).misses == [2]
    assert spread_evenly(evaluation, count=3) == [0, 2, 5]
    assert spread_evenly(evaluation, count=99) == [0, 1, 2, 3, 4, 5]


def test_the_typical_hit_has_the_median_score_of_the_frames_with_the_fewest_mistakes() -> None:
    pairs = [
        (detections((SMALL, 1)), detections((SMALL, 0.9))),
        (detections((SMALL, 1)), detections((SMALL, 0.5))),
        (detections((SMALL, 1)), detections((SMALL, 0.7))),
        (detections((SMALL, 1)), detections((SMALL, 0.8), (LARGE, 0.8))),  # and a false box
        (detections((SMALL, 1), (LARGE, 1)), detections((SMALL, 0.8))),  # and a miss
        (detections(), detections()),
    ]
    truths, predictions = map(list, zip(*pairs, strict=True))
    metrics = box_metrics(truths, predictions, threshold=0.3)
    evaluation = Evaluation(
        metrics=metrics, truths=truths, predictions=predictions, frames=frames_of(truths)
    )
    examples = choose_examples(evaluation)
    assert examples.hit == 2
    assert examples.titles() == {2: "A hit", 4: "A miss", 3: "A false box"}
    some = replace(evaluation, truths=truths[3:], predictions=predictions[3:])
    assert choose_examples(some).hit == 1


def test_of_frames_close_in_time_only_the_worst_mistake_is_shown() -> None:
    truths = [detections((LARGE, 1))] * 40
    predictions = [detections((SMALL, 0.5 + index / 100)) for index in range(40)]
    evaluation = Evaluation(
        metrics=box_metrics(truths, predictions, threshold=0.3),
        truths=truths,
        predictions=predictions,
        frames=[frame(index, truth) for index, truth in enumerate(truths)],
    )
    examples = choose_examples(evaluation)
    assert examples.false_alarms == [39, 24, 9]
    assert len(examples.misses) == 3
    assert len(examples.titles()) == 2  # no frame is shown twice


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("report"))


def test_the_report_shows_mistakes_only_where_there_are_some(
    tmp_path: Path, manifest: Path
) -> None:
    split = open_split(manifest, split="train")
    truth = split.gather(np.arange(len(split)))

    def right(images: np.ndarray) -> Slots:
        return truth.boxes_xyxy, truth.mask.astype(np.float32)

    def wrong(images: np.ndarray) -> Slots:
        boxes = np.zeros_like(truth.boxes_xyxy)
        boxes[:, 0] = [0, 0, 0.04, 0.04]
        scores = np.zeros(boxes.shape[:2], dtype=np.float32)
        scores[:, 0] = 1
        return boxes, scores

    names = {}
    for predict in (wrong, right):  # into the same folder: what is no longer true goes
        result = evaluate(manifest, predict, report=tmp_path / "report", split="train")
        names[predict] = {path.name for path in (tmp_path / "report").iterdir()}
        assert {path.name for path in result.report} == names[predict]
        page = (tmp_path / "report" / "report.html").read_text()
        titles = ["A miss", "A false box"] if predict is wrong else ["A hit"]
        assert re.findall("<b>(A .*)</b>", page) == titles
        assert page.count("<figure>") == len(titles) + 12 + (16 if predict is wrong else 0)
        assert ("Missed polyps" in page) == ("False boxes, the" in page) == (predict is wrong)
        assert not re.search("<h2>(Lesions|Alarms|Degraded images)</h2>", page)
    always = {"report.html", "report.json", "curves.png", "clinical.png", "gallery.png"}
    assert names[wrong] == always | {"misses.png", "false_alarms.png"}
    assert names[right] == always


def evaluate(manifest: Path, predict: PredictSlots, **settings: Any) -> EvaluationResult:
    detector = Detector(
        predict_slots=predict, kind="tiny", caption="a detector", input_size_wh=(64, 64)
    )
    return evaluate_detector(EvalConfig(manifest=manifest, **settings), detector=detector)


def test_the_report_needs_no_other_file_and_shows_the_intervals(
    tmp_path: Path, manifest: Path
) -> None:
    split = open_split(manifest, split="train")
    truth = split.gather(np.arange(len(split)))
    result = evaluate(
        manifest,
        lambda images: (truth.boxes_xyxy, truth.mask.astype(np.float32)),
        report=tmp_path,
        split="train",
        bootstrap=10,
    )
    assert result.intervals is not None
    assert result.intervals.num_groups == split.manifest.splits["train"].groups
    page = (tmp_path / "report.html").read_text()
    text = " ".join(re.sub("<.*?>", " ", page.split("</style>")[1]).split())
    num_groups, num_truths = result.intervals.num_groups, result.evaluation.metrics.num_truths
    assert "Sensitivity 100.0% " in text
    assert "False-positive rate 0.0% 0 of " in text
    assert "clean frames are too few for a false-positive rate: use 22 or more" in text
    assert (
        f"AP50 1.000 1.000 to 1.000 , 95% interval {num_truths} labeled polyps in "
        f"{result.evaluation.metrics.num_images} images of {num_groups} groups"
    ) in text
    assert f"10 resamples of {num_groups} groups" in text
    sources = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["bootstrap"]["ap50"] == pytest.approx([1, 1])
    assert stored["settings"]["manifest"] == str(manifest)
    assert stored["environment"]["python"]


def test_captures_are_measured_in_time_and_the_report_leads_to_the_frames(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captures, weights = tmp_path / "captures", tmp_path / "detector.bin"
    for folder in write_captures(captures, num_runs=2, frames_per_run=6):
        run = folder / "run_manifest.json"
        run.write_text(json.dumps(json.loads(run.read_text()) | {"frame_rate_hz": 2.0}))
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    report = tmp_path / "report"
    arguments = ["--captures", captures, "--detector-weights", weights, "--report", report]
    main(["eval", *map(str, arguments), "--degrade", "--metrics-out", str(tmp_path / "m.json")])
    printed = capsys.readouterr().out
    for text in (
        "threshold 0.3: the default, not fitted",
        "r000/disc_0",
        "all 4 lesions",
        "hold-off  off below",
        "recall when degraded",
        "picture shrunk to  recall",
        "leakage: the groups that it was trained on are not known",
    ):
        assert text in printed
    measured = json.loads((tmp_path / "m.json").read_text())
    assert measured["alarms"]["minutes"] == pytest.approx(12 / 2 / 60)
    assert [row["hold_off_frames"] for row in measured["alarms"]["rows"]] == [0, 3, 6, 15]
    assert len(measured["lesions"]["rows"]) == 4
    assert [score["share"] for score in measured["shrunk"]] == [1.0, 0.5, 0.35]
    num_truths = measured["num_truths"]
    assert [score["metrics"]["num_truths"] for score in measured["shrunk"]] == [num_truths] * 3
    assert measured["shrunk"][0]["metrics"]["at_threshold"]["recall"] == pytest.approx(
        measured["degradations"]["clean"]["recall"]
    )
    assert sum(score["num_truths"] for score in measured["sizes"]) == num_truths
    page = (report / "report.html").read_text()
    assert "0.125 to 0.25" in page
    assert "picture shrunk to" in page
    assert "False alarms a minute <b>" in page
    assert re.findall("<h2>(Lesions|Alarms|Degraded images)</h2>", page) == [
        "Lesions",
        "Alarms",
        "Degraded images",
    ]
    links = re.findall(r'<a href="([^"]+)">', page)
    assert links
    for link in links:
        assert (report / unquote(link)).is_file()
    assert {"degradations.png", "degraded.png"} <= {path.name for path in report.iterdir()}


def test_captures_in_no_known_time_order_have_no_lesions_and_no_alarms(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_captures(tmp_path / "captures", num_runs=3, frames_per_run=3)
    simulated = {"frame_rate_hz": 10.0, "simulation": {"preset": "still"}}
    run = folders[0] / "run_manifest.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | simulated))
    weights, metrics = tmp_path / "detector.bin", tmp_path / "m.json"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    arguments = ["--captures", tmp_path / "captures", "--detector-weights", weights]
    main(["eval", *map(str, arguments), "--metrics-out", str(metrics)])
    printed = capsys.readouterr().out
    assert "false activations" not in printed
    assert "disc_0" not in printed
    assert (
        "  lesions and alarms leave out 3 of 3 runs, not known to be in time order (stills, or no "
        "frame_rate_hz): 'r000'\n"
    ) in printed
    measured = json.loads(metrics.read_text())
    assert (measured["lesions"], measured["alarms"]) == (None, None)


def test_the_gallery_takes_a_path_as_text(tmp_path: Path, manifest: Path) -> None:
    source = SplitFrames(open_split(manifest, split="train"))
    evaluation = evaluate_frames(source, heuristic_detector())
    write_gallery(str(tmp_path / "gallery.png"), evaluation=evaluation, source=source)
    assert (tmp_path / "gallery.png").is_file()


def test_names_from_the_data_are_text_on_the_page(tmp_path: Path, manifest: Path) -> None:
    folder = tmp_path / "a <b> & c"
    write_captures(folder, num_runs=1, frames_per_run=2)
    weights, report = tmp_path / "detector.bin", tmp_path / "report"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    main(
        [
            "eval",
            "--captures",
            str(folder),
            "--detector-weights",
            str(weights),
            "--report",
            str(report),
        ]
    )
    page = (report / "report.html").read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "a <b>" not in page


def test_frames_are_printed_by_the_names_of_their_rates(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, metrics = tmp_path / "detector.bin", tmp_path / "m.json"
    write_lively_checkpoint(weights, manifest=manifest, kind="big")
    measure = ["--manifest", manifest, "--split", "train", "--detector-weights", weights]
    main(["eval", *map(str, measure), "--metrics-out", str(metrics)])
    printed = capsys.readouterr().out
    frames = json.loads(metrics.read_text())["frames"]
    num_lesion, num_clean = frames["num_lesion_frames"], frames["num_clean_frames"]
    assert 0 < num_clean < 22
    sensitivity, rate = f"{frames['sensitivity']:.1%}", f"{frames['false_positive_rate']:.1%}"
    hits, alarms = frames["true_positives"], frames["false_positives"]
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 100
    for pattern in (
        rf"sensitivity +{sensitivity} .* {hits} of {num_lesion} with a polyp",
        rf"false-positive rate +{rate} .* {alarms} of {num_clean} clean",
        f"{num_clean} clean frames are too few for a false-positive rate",
    ):
        assert re.search(pattern, printed)


def test_groups_that_were_trained_on_are_a_leak_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_warehouse(tmp_path)
    result = train_detector(
        TrainConfig(manifest=manifest, epochs=1, checkpoint_out=tmp_path / "detector.bin")
    )
    measure = ["eval", "--detector-weights", str(result.checkpoint), "--json"]

    def audit_of(*arguments: object) -> tuple[dict[str, Any], list[str]]:
        main([*measure, *map(str, arguments)])
        summary = json.loads(capsys.readouterr().out)
        return summary["leakage_audit"], summary["notes"]

    audit, notes = audit_of("--captures", tmp_path / "captures")
    num_trained = read_manifest(manifest).splits["train"].groups
    assert (audit["num_groups"], len(audit["shared_groups"])) == (8, num_trained)
    assert notes[0].startswith(f"LEAK: {num_trained} of 8 groups were trained on, such as 'colon_")
    audit, _ = audit_of("--manifest", manifest)
    assert audit["shared_groups"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--detector-weights", "w"],
            "expected one of --manifest (a warehouse) and --captures (run folders): the frames to "
            "measure on",
        ),
        (
            ["--manifest", "m", "--captures", "c", "--detector-weights", "w"],
            "expected one of --manifest (a warehouse) and --captures (run folders): the frames to "
            "measure on",
        ),
        (
            ["--captures", "c", "--split", "val", "--detector-weights", "w"],
            "--split val with --captures c: expected it with --manifest, since captures have no "
            "splits",
        ),
        (
            ["--captures", "c"],
            "expected one of --detector-weights (a file) and --compare (two of them): what to "
            "measure",
        ),
        (
            ["--captures", "c", "--compare", "a", "b", "--fit"],
            "--fit with --compare: expected one of them",
        ),
        (
            ["--captures", "c", "--compare", "a", "b", "--bootstrap", "0"],
            "--bootstrap 0 with --compare: expected at least 1, since a comparison is a set of "
            "intervals",
        ),
        (
            ["--captures", "c", "--detector-weights", "w.json", "--degrade"],
            "--degrade with stored predictions w.json: expected a checkpoint, since they cannot "
            "look at other images",
        ),
        (
            ["--captures", "c", "--detector-weights", "w", "--fit", "--shuffle-labels-seed", "1"],
            "--fit with --shuffle-labels-seed: expected one of them",
        ),
        (
            ["--captures", "c", "--detector-weights", "w", "--fit-fpr", "1.5"],
            "--fit-fpr 1.5: expected a number above 0 and below 1",
        ),
        (
            ["--captures", "c", "--detector-weights", "w", "--predictions-out", "p.csv"],
            "--predictions-out p.csv: expected a name that ends in .json, by which `haustra eval` "
            "recognizes stored predictions",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"haustra: {message}\n"
