from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_lively_checkpoint
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.core.operating_point import OperatingPoint
from haustra.inference.checkpoint_detector import store_operating_point
from haustra.inference.config import InferConfig
from haustra.inference.heuristic import heuristic_detector
from haustra.inference.pictures import draw_picture, infer_pictures
from scenes import draw_scene, write_warehouse


def write_images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        image, _ = draw_scene(np.random.default_rng(seed), size_wh=(120, 90), num_polyps=1)
        write_png(folder / name, image_rgb=image)


def test_an_image_gets_its_boxed_picture_beside_it(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    result = infer_pictures(InferConfig(image=tmp_path / "a.png", infer_obj_thresh=0.0))
    assert [picture.picture for picture in result.pictures] == [tmp_path / "a_boxed.png"]
    assert len(result.pictures[0].detections) >= 1
    boxed = read_image_rgb(tmp_path / "a_boxed.png")
    assert min(boxed.shape[:2]) >= 512


def test_a_folder_is_boxed_into_a_folder_beside_it_and_never_boxed_twice(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_images(folder, ["a.png", "b.png", "c_boxed.png"])
    result = infer_pictures(InferConfig(image=folder))
    assert [picture.picture for picture in result.pictures] == [
        tmp_path / "frames_boxed" / "a_boxed.png",
        tmp_path / "frames_boxed" / "b_boxed.png",
    ]


def test_images_of_one_stem_get_two_pictures(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "a.PNG").write_bytes((tmp_path / "a.png").read_bytes())
    result = infer_pictures(InferConfig(image=tmp_path, output_root=tmp_path / "out"))
    names = sorted(picture.picture.name for picture in result.pictures)
    assert names == ["a.PNG_boxed.png", "a.png_boxed.png"]


def test_an_unreadable_image_of_a_folder_is_named_and_the_others_are_boxed(
    tmp_path: Path,
) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"nothing")
    result = infer_pictures(InferConfig(image=tmp_path, output_root=tmp_path / "out"))
    assert len(result.pictures) == 1
    assert result.unreadable == [
        f"{tmp_path / 'b.png'} is not an image (PNG, JPEG, BMP, TIFF or WebP)"
    ]


def test_an_image_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"nothing")
    with pytest.raises(HaustraError) as caught:
        infer_pictures(InferConfig(image=path))
    assert str(caught.value) == f"{path} is not an image (PNG, JPEG, BMP, TIFF or WebP)"


def test_weights_that_do_not_load_are_an_error_and_never_a_fallback(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"random bytes")
    with pytest.raises(HaustraError) as caught:
        infer_pictures(InferConfig(image=tmp_path / "a.png", detector_weights=weights))
    assert str(caught.value) == (
        f"{weights} is not a haustra checkpoint; expected a file that `haustra train` wrote"
    )
    assert not (tmp_path / "a_boxed.png").exists()


def test_settings_take_text_as_paths() -> None:
    config = InferConfig(image="a.png", detector_weights="c.bin", output_root="out")  # type: ignore[arg-type]
    assert (config.image, config.detector_weights) == (Path("a.png"), Path("c.bin"))
    assert config.output_root == Path("out")


def test_a_threshold_that_is_asked_for_is_not_reported_as_fitted(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    weights = tmp_path / "w" / "tinydet.bin"
    write_lively_checkpoint(weights, manifest=write_warehouse(tmp_path / "data", num_runs=3))
    store_operating_point(weights, OperatingPoint(objectness=0.4, fitted={"fitted_on": "val"}))

    def operating_point(threshold: float | None) -> object:
        config = InferConfig(
            image=tmp_path / "a.png", detector_weights=weights, infer_obj_thresh=threshold
        )
        return infer_pictures(config).to_json()["operating_point"]

    assert operating_point(None) == {
        "objectness": 0.4,
        "iou": 0.5,
        "fitted": {"fitted_on": "val"},
    }
    assert operating_point(0.6) == {"objectness": 0.6, "iou": 0.5}


def test_the_heuristic_says_what_it_is_on_the_picture_and_in_the_result(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    result = infer_pictures(InferConfig(image=tmp_path / "a.png"))
    assert result.detector.kind == "heuristic"
    assert "HEURISTIC" in result.detector.caption


def test_the_heuristic_finds_a_bright_round_thing() -> None:
    hits = 0
    for seed in range(10):
        image, truths = draw_scene(np.random.default_rng(seed), size_wh=(200, 160), num_polyps=1)
        found = heuristic_detector().detect(image, objectness=0.0, iou=0.5)
        x0, y0, x1, y1 = truths[0].bbox_px
        x, y = found.boxes_px[0].reshape(2, 2).mean(axis=0)
        hits += x0 < x < x1 and y0 < y < y1
    assert hits >= 9


def test_the_picture_shows_the_boxes_and_their_number() -> None:
    image = np.zeros((600, 600, 3), dtype=np.uint8)
    nothing = Detections(boxes_px=np.zeros((0, 4)), scores=np.zeros(0), image_size_wh=(600, 600))
    one = Detections(
        boxes_px=np.array([[100.0, 120.0, 300.0, 320.0]]),
        scores=np.array([0.9]),
        image_size_wh=(600, 600),
    )
    without = draw_picture(image, nothing, caption="tinydet")
    with_box = draw_picture(image, one, caption="tinydet")
    assert with_box[121:319, 100:103].any(axis=2).mean() > 0.9
    assert without[100:330, 90:310].max() == 0
    assert without[-30:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"infer_obj_thresh": 1.5}, "infer_obj_thresh=1.5: expected a number from 0 to 1"),
        ({"infer_iou_thresh": -0.1}, "infer_iou_thresh=-0.1: expected a number from 0 to 1"),
        (
            {"model": "big"},
            "model='big': expected detector_weights with it",
        ),
        ({"image": None}, "expected one of image (a file, a folder or a run) and video (a file)"),
        (
            {"video": Path("a.mp4")},
            "expected one of image (a file, a folder or a run) and video (a file)",
        ),
        (
            {"out": Path("b.mp4")},
            "out='b.mp4': expected with video only; pictures go to output_root",
        ),
        (
            {"image": None, "video": Path("a.mp4"), "output_root": Path("b")},
            "output_root='b': expected with image only; a video goes to out",
        ),
        (
            {"image": None, "video": Path("a.mp4"), "out": Path("b.gif")},
            "out='b.gif': expected a name that ends in one of .mp4, .mov, .mkv, .avi, .webm",
        ),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        InferConfig(**{"image": Path("a.png"), **changes})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_missing_source_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught:
        infer_pictures(InferConfig(image=tmp_path / "no.png"))
    assert str(caught.value) == (
        f"image={str(tmp_path / 'no.png')!r}: expected an image or a folder of images; it does not "
        "exist"
    )
    with pytest.raises(HaustraError) as caught:
        infer_pictures(InferConfig(image=tmp_path))
    assert str(caught.value) == (
        f"image={str(tmp_path)!r}: the folder holds no image (PNG, JPEG, BMP, TIFF or WebP)"
    )
