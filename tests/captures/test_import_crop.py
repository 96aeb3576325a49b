"""`haustra import --crop auto`, and detectors that were trained on cropped images."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import write_json
from haustra.captures.importers.coco import CocoImportConfig, import_coco
from haustra.captures.importers.dataset import ImportResult
from haustra.captures.importers.video import VideoImportConfig, import_video
from haustra.captures.reader import read_run
from haustra.captures.schema import FrameLabel
from haustra.core.detections import Slots
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb, write_png
from haustra.core.videos import writing_video
from haustra.evaluation.frames import open_captures
from haustra.inference.checkpoint_detector import open_checkpoint
from haustra.inference.detector import Detector
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

PICTURE = (96, 32, 288, 224)
SIZE_WH = (320, 256)


def screen(*, seed: int = 0, place: tuple[int, int, int, int] = PICTURE) -> np.ndarray:
    x0, y0, x1, y1 = place
    image = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    image[y0:y1, x0:x1] = rng.integers(90, 220, (y1 - y0, x1 - x0, 3))
    return image


def run_import(
    tmp_path: Path,
    images: dict[str, np.ndarray],
    boxes: dict[str, list[list[float]]],
    **more: object,
) -> ImportResult:
    """Import images with boxes `x,y,width,height`."""
    for name, image in images.items():
        write_png(tmp_path / "images" / name, image_rgb=image)
    names = list(images)
    value = {
        "images": [
            {"id": n, "file_name": name, "width": SIZE_WH[0], "height": SIZE_WH[1]}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {"id": 100 * n + k, "image_id": n, "category_id": 1, "bbox": box}
            for n, name in enumerate(names)
            for k, box in enumerate(boxes.get(name, []))
        ],
        "categories": [{"id": 1, "name": "polyp"}],
    }
    path = tmp_path / "coco.json"
    write_json(path, value)
    settings = {"output_root": tmp_path / "captures", "crop": "auto"} | more
    config = CocoImportConfig(**settings)  # type: ignore[arg-type]
    [result] = import_coco(tmp_path / "images", path, config=config)
    return result


def labels_of(result: ImportResult) -> list[FrameLabel]:
    return [frame.label for frame in read_run(result.folder).frames if frame.label is not None]


def test_images_and_boxes_are_cropped_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    image, whole = screen(), screen(place=(0, 0, *SIZE_WH))
    result = run_import(
        tmp_path,
        {"a.png": image, "b.png": whole, "c.png": np.zeros_like(image)},
        {
            "a.png": [[120, 60, 50, 40], [80, 180, 40, 30], [2, 2, 30, 20]],
            "b.png": [[10, 20, 30, 40]],
        },
    )
    first, second, third = labels_of(result)
    assert first.crop_px is not None
    x0, y0, x1, y1 = first.crop_px
    assert 93 <= x0 <= 96
    assert 29 <= y0 <= 32
    assert 288 <= x1 <= 291
    cropped = read_image_rgb(result.folder / first.image)
    np.testing.assert_array_equal(cropped, image[y0:y1, x0:x1])
    assert [polyp.bbox_px for polyp in first.labels] == [
        [120 - x0, 60 - y0, 170 - x0, 100 - y0],
        [0, 180 - y0, 120 - x0, 210 - y0],
    ]
    assert "outside the crop" in first.rejected[0]
    assert (second.crop_px, second.labels[0].bbox_px) == (None, [10, 20, 40, 60])
    assert (result.folder / second.image).read_bytes() == (tmp_path / "images/b.png").read_bytes()
    assert third.crop_px is None
    assert (result.num_boxes, result.num_clipped, result.num_rejected) == (3, 1, 1)
    assert "cropped to the endoscope's picture: 1, first in 'a.png'" in result.notes
    assert any("nothing is cropped: 1, first in 'c.png'" in note for note in result.notes)
    assert read_run(result.folder).manifest.crop == "auto"


def test_all_images_of_a_video_are_cropped_alike(tmp_path: Path) -> None:
    images = {f"{n}.png": screen(seed=n) for n in range(6)}
    images["3.png"] = screen(place=(96, 32, 200, 224))  # the light is half off
    result = run_import(tmp_path, images, {"0.png": [[120, 60, 50, 40]]}, frame_rate_hz=25)
    crops = {label.crop_px for label in labels_of(result)}
    assert len(crops) == 1
    [crop] = crops
    assert crop is not None
    assert crop[2] >= 288


def test_an_unreadable_image_of_a_video_is_named_as_ever(tmp_path: Path) -> None:
    images = {f"{n}.png": screen(seed=n) for n in range(3)}
    run_import(tmp_path, images, {"0.png": [[120, 60, 50, 40]]}, frame_rate_hz=25)
    (tmp_path / "images/1.png").write_bytes(b"no image")
    with pytest.raises(HaustraError, match=r"1\.png is not an image"):
        import_coco(
            tmp_path / "images",
            tmp_path / "coco.json",
            config=CocoImportConfig(output_root=tmp_path / "again", crop="auto", frame_rate_hz=25),
        )


def test_a_video_is_cropped_to_one_place(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    with writing_video(clip, frame_rate_hz=30) as writer:
        for number in range(12):
            frame = screen() // 2
            writer.add(np.zeros_like(frame) if number == 0 else frame, seconds=number / 30)
    config = VideoImportConfig(
        output_root=tmp_path / "captures", crop="auto", allow_unlabelled=True
    )
    result = import_video(clip, config=config)
    labels = labels_of(result)
    assert len({label.crop_px for label in labels}) == 1
    shape = read_image_rgb(result.folder / labels[0].image).shape
    assert np.abs(np.subtract(shape[:2], 192)).max() <= 6


@pytest.mark.slow
def test_a_detector_trained_on_crops_crops_what_it_sees(tmp_path: Path) -> None:
    """Held end to end: the pixels that it sees of a whole frame are those of the warehouse."""
    images = {f"{n}.png": screen(seed=n) for n in range(12)}
    boxes = {name: [[120.0, 60, 50, 40]] for name in images}
    result = run_import(tmp_path, images, boxes)
    etl = ETLConfig(
        captures=tmp_path / "captures", output_root=tmp_path / "warehouse", target_size="64"
    )
    built = build_warehouse(etl)
    assert {source.crop for source in built.manifest.sources} == {"auto"}
    checkpoint = tmp_path / "tinydet.bin"
    train_detector(
        TrainConfig(manifest=built.manifest_path, epochs=1, batch_size=4, checkpoint_out=checkpoint)
    )
    detector = open_checkpoint(checkpoint, kind=None, backend=None)
    assert detector.crops
    label, image = labels_of(result)[0], images["0.png"]
    letterbox = detector.letterbox(image)
    assert letterbox.crop_px == label.crop_px
    cropped = read_image_rgb(result.folder / label.image)
    np.testing.assert_array_equal(
        letterbox.apply(image), detector.letterbox(cropped).apply(cropped)
    )
    on_whole, on_crop = (detector.detect(each, objectness=0.0) for each in (image, cropped))
    assert on_whole.image_size_wh == SIZE_WH
    origin = np.array(letterbox.crop_px[:2] * 2)
    np.testing.assert_allclose(
        on_whole.boxes_px.clip(origin, (*letterbox.crop_px[2:],) * 2) - origin, on_crop.boxes_px
    )


def nothing(images: NDArray[np.uint8]) -> Slots:
    return np.zeros((len(images), 0, 4), np.float32), np.zeros((len(images), 0), np.float32)


def test_a_detector_that_crops_sees_captures_so(tmp_path: Path) -> None:
    images = {f"{n}.png": screen(seed=n) for n in range(2)}
    result = run_import(tmp_path, images, {"0.png": [[120, 60, 50, 40]]}, crop=None)

    def letterboxes(*, crops: bool) -> list[tuple[int, int, int, int]]:
        source = open_captures(
            result.folder, target_size_wh=(64, 64), resize_mode="letterbox", crops=crops
        )
        return [frame.letterbox.crop_px for frame, _ in source.read()]

    assert letterboxes(crops=False) == [(0, 0, *SIZE_WH)] * 2
    detector = Detector(
        predict_slots=nothing,
        kind="tiny",
        caption="t",
        input_size_wh=(64, 64),
        crops=True,
    )
    assert letterboxes(crops=True) == [
        detector.letterbox(image).crop_px for image in images.values()
    ]
