"""`haustra infer --rank`: the order in which images are worth labeling."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from builders import write_image
from checkpoints import write_lively_checkpoint
from haustra.captures.schema import RunManifest
from haustra.captures.writer import writing_run
from haustra.cli.main import main
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.images import encode_png, read_image_rgb, write_png
from haustra.core.operating_point import OperatingPoint
from haustra.exporting.labels import ConvertConfig, convert_labels
from haustra.inference.checkpoint_detector import store_operating_point
from haustra.inference.config import InferConfig
from haustra.inference.detector import Detector, open_detector
from haustra.inference.pictures import InferResult, infer_pictures
from haustra.inference.ranking import (
    as_confidences,
    disagreement,
    find_look_alikes,
    uncertainty,
    value_of,
)
from scenes import draw_scene, write_warehouse

SIZE_WH = (100, 80)
BOX = (10.0, 20.0, 50.0, 60.0)
Boxes = list[tuple[float, float, float, float]]


def found(*scores: float, boxes: Boxes | None = None) -> Detections:
    places = boxes or [BOX] * len(scores)
    order = np.argsort(-np.array(scores), kind="stable")
    return Detections(
        boxes_px=np.reshape(places, (-1, 4)).astype(float)[order],
        scores=np.array(scores, dtype=float)[order],
        image_size_wh=SIZE_WH,
    )


def fixed_detector(by_brightness: dict[int, list[float]], *, threshold: float = 0.5) -> Detector:
    """A detector whose scores depend on the first pixel alone; all boxes lie at one place."""

    def predict_slots(
        images: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores = np.array([by_brightness[int(image[0, 0, 0])] for image in images], np.float32)
        boxes = np.tile(np.array([0.1, 0.2, 0.5, 0.6], np.float32), (*scores.shape, 1))
        return boxes, scores

    return Detector(
        predict_slots=predict_slots,
        kind="big",
        caption="fixed",
        input_size_wh=(64, 64),
        operating_point=OperatingPoint(objectness=threshold, iou=1.0),
    )


@given(threshold=st.floats(0.001, 0.999), scores=st.lists(st.floats(0, 1), max_size=5))
def test_a_box_at_the_threshold_has_half_the_confidence_and_the_order_stays(
    threshold: float, scores: list[float]
) -> None:
    detections = found(*scores, threshold)
    scaled = as_confidences(detections, threshold=threshold).scores
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.diff(scaled) <= 0).all()
    np.testing.assert_allclose(scaled[detections.scores == threshold], 0.5)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_ends_of_the_scale_are_thresholds_too(threshold: float) -> None:
    assert np.isfinite(as_confidences(found(0.0, 0.3, 1.0), threshold=threshold).scores).all()


def test_an_image_is_uncertain_by_its_boxes_at_the_threshold_not_by_sure_or_faint_ones() -> None:
    def value(*scores: float, threshold: float = 0.3) -> float:
        return uncertainty(as_confidences(found(*scores), threshold=threshold))

    assert value(0.3) == pytest.approx(1)
    assert value() == 0
    assert value(0.3) > value(0.5) > value(0.9) > value(0.999)
    assert value(0.3) > value(0.1) > value(0.01)
    assert value(0.3, 0.25) > value(0.3)  # a second doubtful box teaches more
    assert value(0.9, *[0.001] * 50) < value(0.6)  # many faint boxes teach little
    assert value(0.7, threshold=0.7) == pytest.approx(1)


def test_views_that_agree_differ_by_nothing_and_a_box_of_one_view_by_its_weight() -> None:
    assert disagreement(found(0.9, 0.4), found(0.9, 0.4)) == pytest.approx(0)
    assert disagreement(found(), found()) == 0
    assert disagreement(found(1.0), found()) == pytest.approx(1)
    assert disagreement(found(0.5), found()) == pytest.approx(0.25)
    away: Boxes = [(60, 60, 90, 70)]
    assert disagreement(found(1.0), found(1.0, boxes=away)) == pytest.approx(2)
    shifted: Boxes = [(30.0, 20.0, 70.0, 60.0)]  # IoU 1/3
    assert disagreement(found(1.0), found(1.0, boxes=shifted)) == pytest.approx(2 - 2 / 3)
    # Two boxes on one polyp: one of them is matched.
    assert disagreement(found(1.0, 0.8), found(1.0)) == pytest.approx(0.64)


boxes_of_view = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 60), st.integers(1, 20), st.floats(0, 1)),
    max_size=4,
)


@given(one=boxes_of_view, other=boxes_of_view)
def test_disagreement_is_symmetric_and_within_the_weight_of_all_boxes(
    one: list[tuple[int, int, int, float]], other: list[tuple[int, int, int, float]]
) -> None:
    a, b = (
        found(*(s for *_, s in view), boxes=[(x, y, x + w, y + w) for x, y, w, _ in view])
        for view in (one, other)
    )
    assert disagreement(a, b) == pytest.approx(disagreement(b, a))
    assert 0 <= disagreement(a, b) <= (a.scores**2).sum() + (b.scores**2).sum() + 1e-9
    assert disagreement(a, a) == pytest.approx(0)


def test_one_detector_disagrees_with_itself_on_the_mirrored_image() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200  # mirrored, it begins with a bright pixel
    sure = fixed_detector({0: [0.9], 200: [0.9]})
    # The mirrored box [32,58] overlaps the box [6.4,32] by nothing.
    weight = 0.9**2
    assert value_of(image, rule="disagree", detectors=[sure]) == pytest.approx(2 * weight, rel=1e-5)
    blind = fixed_detector({0: [0.9], 200: [0.0]})
    assert value_of(image, rule="disagree", detectors=[blind]) == pytest.approx(weight, rel=1e-5)


def test_several_detectors_disagree_by_pairs_each_at_its_own_threshold() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    a = fixed_detector({0: [0.5]})
    same = fixed_detector({0: [0.1]}, threshold=0.1)  # as sure as the first: both at the threshold
    blind = fixed_detector({0: [0.0]})
    assert value_of(image, rule="disagree", detectors=[a, same]) == pytest.approx(0, abs=1e-6)
    value = value_of(image, rule="disagree", detectors=[a, same, blind])
    assert value == pytest.approx((0 + 0.25 + 0.25) / 3, rel=1e-5)
    assert value_of(image, rule="uncertain", detectors=[a, blind]) == pytest.approx(1)


def test_look_alikes_are_found_by_look_and_by_time_and_only_with_those_that_look_like_none() -> (
    None
):
    near, far = np.arccos(1 - 0.015), np.arccos(1 - 0.03)  # angles of differences around 0.02
    angles = np.array([0.0, 3.0, near, near + far, 1.5])
    looks = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    never = np.full(5, np.inf)
    assert find_look_alikes(looks, times_s=never).tolist() == [-1, -1, 0, -1, -1]
    times = np.array([5.0, 7.0, 9.0, 7.9, 4.0])
    assert find_look_alikes(looks, times_s=times).tolist() == [-1, -1, 0, 1, -1]


def write_lively(folder: Path, *, seed: int = 0) -> Path:
    weights = folder / f"weights_{seed}" / "tinydet.bin"
    manifest = write_warehouse(weights.parent / "data", num_runs=3)
    write_lively_checkpoint(weights, manifest=manifest, seed=seed)
    return weights


def write_scenes(folder: Path, count: int = 6) -> None:
    for seed in range(count):
        image, _ = draw_scene(np.random.default_rng(seed), size_wh=(96, 80), num_polyps=1)
        write_png(folder / f"{seed}.png", image_rgb=image)


def rank(folder: Path, weights: Path, **settings: object) -> InferResult:
    config = InferConfig(image=folder, detector_weights=weights, **settings)  # type: ignore[arg-type]
    return infer_pictures(config)


def order_of(result: InferResult) -> list[str]:
    return [picture.image.stem for picture in result.pictures]


def test_images_come_by_value_and_a_count_keeps_the_first(tmp_path: Path) -> None:
    write_scenes(tmp_path / "frames")
    weights = write_lively(tmp_path)
    # In the middle of the scores of the images, which spread little.
    raw = [
        open_detector(weights).detect(read_image_rgb(p), objectness=0.0).scores[0]
        for p in sorted((tmp_path / "frames").iterdir())
    ]
    threshold = float(np.median(raw))
    store_operating_point(weights, OperatingPoint(objectness=threshold))
    result = rank(tmp_path / "frames", weights, rank="uncertain")
    values = [picture.ranked.value for picture in result.pictures if picture.ranked]
    assert len(values) == 6
    distances = np.abs(
        np.log(np.array(raw) / (1 - np.array(raw))) - np.log(threshold / (1 - threshold))
    )
    assert order_of(result) == [str(n) for n in np.argsort(distances, kind="stable")]
    assert values == sorted(values, reverse=True)
    first = rank(tmp_path / "frames", weights, rank="uncertain", rank_count=2)
    assert order_of(first) == order_of(result)[:2]
    assert first.ranking is not None
    assert first.ranking.num_ranked == 6
    # A threshold for the boxes that are shown changes no value.
    shown = rank(tmp_path / "frames", weights, rank="uncertain", infer_obj_thresh=0.01)
    assert order_of(shown) == order_of(result)
    assert all(len(picture.detections) for picture in shown.pictures)


def test_copies_of_an_image_come_after_all_others(tmp_path: Path) -> None:
    write_scenes(tmp_path / "frames", count=3)
    weights = write_lively(tmp_path)
    best = order_of(rank(tmp_path / "frames", weights, rank="disagree"))[0]
    original = tmp_path / "frames" / f"{best}.png"
    for name in ("copy_a.png", "copy_b.png"):
        (tmp_path / "frames" / name).write_bytes(original.read_bytes())
    result = rank(tmp_path / "frames", weights, rank="disagree")
    order = order_of(result)
    assert order[0] == best
    assert order[-2:] == ["copy_a", "copy_b"]
    likes = [picture.ranked.looks_like for picture in result.pictures if picture.ranked]
    assert likes == [None, None, None, original, original]
    assert result.ranking is not None
    assert result.ranking.num_look_alikes == 2


def test_frames_of_a_video_within_a_second_of_a_better_one_come_after_all_others(
    tmp_path: Path,
) -> None:
    manifest = RunManifest(run_id="a", source="imported", frame_rate_hz=4.0)
    with writing_run(tmp_path / "run_a", manifest=manifest) as writer:
        for seed in range(12):
            image, _ = draw_scene(np.random.default_rng(seed), size_wh=(96, 80), num_polyps=1)
            writer.add_frame(
                encode_png(image),
                suffix=".png",
                image_size_wh=(96, 80),
                labels=None,
                sim_time=seed / 4,
            )
    result = rank(tmp_path / "run_a", write_lively(tmp_path), rank="uncertain")
    ranked = [picture.ranked for picture in result.pictures if picture.ranked]
    is_first = [item.looks_like is None for item in ranked]
    assert is_first == sorted(is_first, reverse=True)
    numbers = [int(item.image.stem[-5:]) for item in ranked if item.looks_like is None]
    assert 2 <= len(numbers) <= 3
    assert all(b - a >= 4 for a, b in zip(sorted(numbers), sorted(numbers)[1:], strict=False))
    assert not result.in_time


def test_two_detectors_are_compared_and_named(tmp_path: Path) -> None:
    write_scenes(tmp_path / "frames", count=3)
    one, other = write_lively(tmp_path), write_lively(tmp_path, seed=1)
    result = rank(tmp_path / "frames", one, rank="disagree", also_detector_weights=(other,))
    assert result.ranking is not None
    assert result.ranking.to_json() == {
        "rule": "disagree",
        "detectors": [str(one), str(other)],
        "num_ranked": 3,
        "num_look_alikes": 0,
        "notes": [
            f"{path}: threshold 0.3 is the default, not fitted, and the order depends on it; "
            "fit it first: haustra eval --fit --fit-by f1"
            for path in (one, other)
        ],
    }
    fitted = OperatingPoint(objectness=0.3, fitted={"fitted_on": "val"})
    for path in (one, other):
        store_operating_point(path, fitted)
    again = rank(tmp_path / "frames", one, rank="disagree", also_detector_weights=(other,))
    assert again.ranking is not None
    assert again.ranking.notes == []
    twice = rank(tmp_path / "frames", one, rank="disagree", also_detector_weights=(one,))
    assert [p.ranked.value for p in twice.pictures if p.ranked] == pytest.approx([0, 0, 0])


def test_an_unreadable_image_is_named_and_the_others_are_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "frames", count=3)
    (tmp_path / "frames/broken.png").write_bytes(b"nothing")
    weights = write_lively(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["infer", "--image", "frames", "--detector-weights", str(weights)]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--rank", "uncertain", "--rank-count", "2"])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["rank", "image", "value", "boxes", "looks", "like"]
    assert "ranked 3 images" in out
    assert "frames/broken.png is not an image" in err
    sheet = read_image_rgb("frames_boxed/ranked_boxed.jpg")
    assert sheet.shape == (288, 576, 3)
    assert len(list(Path("frames_boxed").glob("*.png"))) == 2


def test_the_json_has_the_order_and_convert_numbers_the_images_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "frames", count=4)
    weights = write_lively(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["--detector-weights", str(weights), "--rank", "uncertain", "--json"]
    main(["infer", "--image", "frames", *arguments])
    text = capsys.readouterr().out
    images = json.loads(text)["images"]
    assert [image["rank"] for image in images] == [1, 2, 3, 4]
    values = [image["value"] for image in images]
    assert values == sorted(values, reverse=True)
    Path("found.json").write_text(text)
    for form in ("cvat", "label-studio", "coco", "yolo", "voc"):
        config = ConvertConfig(to=form, output_root=tmp_path / form)
        convert_labels("found.json", config=config)
        names = sorted(path.name for path in (tmp_path / form / "images").iterdir())
        assert names == [f"0000{n}_{Path(i['image']).name}" for n, i in enumerate(images, start=1)]


def test_a_single_image_cannot_be_ranked(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(HaustraError) as caught:
        rank(tmp_path / "a.png", write_lively(tmp_path), rank="uncertain")
    assert str(caught.value) == (
        f"image={str(tmp_path / 'a.png')!r}: expected a folder of images or a run, since rank "
        "orders several"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"detector_weights": None},
            "rank='uncertain': expected detector_weights with it; the heuristic's scores are not "
            "confidences",
        ),
        (
            {"image": None, "video": Path("a.mp4")},
            "rank='uncertain': expected image; import the video first (`haustra import video "
            "a.mp4`), then rank the frames of its run",
        ),
        (
            {"also_detector_weights": ("b.bin",)},
            "also_detector_weights='b.bin': expected with rank='disagree' only",
        ),
        (
            {"rank": None, "also_detector_weights": ("b.bin",)},
            "also_detector_weights='b.bin': expected with rank='disagree' only",
        ),
        ({"rank": None, "rank_count": 3}, "rank_count=3: expected with rank only"),
        ({"rank_count": 0}, "rank_count=0: expected a whole number of at least 1"),
        ({"rank": "best"}, "rank='best': expected one of uncertain, disagree"),
        (
            {"infer_hold_off": 2},
            "infer_hold_off=2: expected without rank, whose images are not in the order of time",
        ),
    ],
)
def test_wrong_settings_of_a_ranking_are_named(changes: dict[str, object], message: str) -> None:
    settings = {"image": Path("a"), "detector_weights": Path("w.bin"), "rank": "uncertain"}
    with pytest.raises(HaustraError) as caught:
        InferConfig(**(settings | changes))  # type: ignore[arg-type]
    assert str(caught.value) == message
