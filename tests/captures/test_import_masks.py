from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import write_image
from haustra.captures.importers.dataset import ImportResult
from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.captures.reader import read_run
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.errors import HaustraError

Mask = NDArray[np.uint8]


def mask_with(*boxes: tuple[int, int, int, int], value: int = 255) -> Mask:
    """A mask of 60x40 with filled boxes `x0,y0,x1,y1`."""
    mask = np.zeros((40, 60), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = value
    return mask


def write_dataset(tmp_path: Path, *masks: Mask, suffix: str = ".png") -> Path:
    root = tmp_path / "Kvasir-SEG"
    (root / "masks").mkdir(parents=True)
    for index, mask in enumerate(masks):
        write_image(root / f"images/{index}.jpg", seed=index, size_wh=(60, 40))
        cv2.imwrite(str(root / f"masks/{index}{suffix}"), mask)
    return root


def run_import(root: Path, **changes: Any) -> ImportResult:
    config = MaskImportConfig(**{"output_root": root.parent / "captures", **changes})
    return import_masks(root / "images", root / "masks", config=config)


def boxes_of(result: ImportResult) -> list[list[list[float]]]:
    boxes = []
    for frame in read_run(result.folder).frames:
        checked = check_frame(frame)
        assert isinstance(checked, CheckedFrame)
        boxes.append(checked.boxes_px.tolist())
    return boxes


def import_error(root: Path, **changes: Any) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(root, **changes)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_each_component_of_a_mask_becomes_a_box(tmp_path: Path, suffix: str) -> None:
    # JPEG keeps these edges where they lie on its blocks of 8 pixels.
    first = mask_with((8, 8, 24, 16), (40, 16, 56, 40))
    root = write_dataset(tmp_path, first, mask_with((0, 0, 60, 40)), suffix=suffix)
    result = run_import(root)
    assert boxes_of(result) == [[[8, 8, 24, 16], [40, 16, 56, 40]], [[0, 0, 60, 40]]]
    assert (result.num_images, result.num_boxes, result.num_empty) == (2, 3, 0)
    assert result.folder.name == "run_kvasir-seg"


def test_an_empty_mask_is_a_negative(tmp_path: Path) -> None:
    result = run_import(write_dataset(tmp_path, mask_with()))
    assert boxes_of(result) == [[]]
    assert result.num_empty == 1


def test_components_that_touch_at_a_corner_are_one(tmp_path: Path) -> None:
    mask = mask_with((5, 5, 15, 15), (15, 15, 25, 25))
    assert boxes_of(run_import(write_dataset(tmp_path, mask))) == [[[5, 5, 25, 25]]]


def test_components_that_are_a_pixel_apart_are_two(tmp_path: Path) -> None:
    mask = mask_with((5, 5, 15, 15), (16, 5, 26, 15))
    assert boxes_of(run_import(write_dataset(tmp_path, mask))) == [
        [[5, 5, 15, 15], [16, 5, 26, 15]]
    ]


def test_components_below_the_smallest_size_are_not_polyps(tmp_path: Path) -> None:
    mask = mask_with((0, 0, 13, 3), (20, 20, 28, 25))  # 39 and 40 pixels
    root = write_dataset(tmp_path, mask)
    assert boxes_of(run_import(root)) == [[[20, 20, 28, 25]]]
    assert boxes_of(run_import(root, min_pixels=39, overwrite=True)) == [
        [[0, 0, 13, 3], [20, 20, 28, 25]]
    ]
    assert boxes_of(run_import(root, min_pixels=41, overwrite=True)) == [[]]


def test_a_mask_of_three_values_needs_a_choice(tmp_path: Path) -> None:
    mask = mask_with((0, 0, 10, 10), value=127) + mask_with((20, 20, 30, 30), value=128)
    root = write_dataset(tmp_path, mask)
    assert import_error(root) == (
        "the boxes have 2 classes: '127' (1 box), '128' (1 box); expected one; choose those "
        "that are polyps with mask_values='127'"
    )
    assert boxes_of(run_import(root, mask_values="128")) == [[[20, 20, 30, 30]]]


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, np.zeros((60, 40), np.uint8))
    assert import_error(root) == (
        f"{root / 'images/0.jpg'} is 60x40, but {root / 'masks/0.png'} is for an image of 40x60; "
        "expected the same size; turn or resize one of them as the other was"
    )
    assert list((tmp_path / "captures").iterdir()) == []


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, mask_with(), mask_with(), mask_with())
    (root / "masks/1.png").unlink()
    (root / "masks/2.png").unlink()
    assert import_error(root) == (
        f"2 image(s) of {root / 'images'} have no mask in {root / 'masks'}: '1', '2'; expected "
        "masks named '{stem}', or allow_unlabelled=True to take such images as negatives"
    )


def test_a_mask_without_an_image_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, mask_with(), mask_with())
    (root / "images/1.jpg").unlink()
    assert import_error(root) == (
        f"1 mask(s) of {root / 'masks'} have no image in {root / 'images'}: '1'; expected an image "
        "for each mask, which is named '{stem}'"
    )


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, mask_with())
    (root / "masks/0.png").write_text("text")
    assert import_error(root) == (
        f"{root / 'masks/0.png'} is not an image (PNG, JPEG, BMP, TIFF or WebP)"
    )


@pytest.mark.parametrize("min_pixels", [0, -3])
def test_a_smallest_size_below_one_is_refused(min_pixels: int) -> None:
    with pytest.raises(HaustraError) as caught:
        MaskImportConfig(min_pixels=min_pixels)
    assert str(caught.value) == (f"min_pixels={min_pixels}: expected a whole number of at least 1")


def test_the_settings_of_every_import_are_checked_too() -> None:
    with pytest.raises(HaustraError, match=r"^group_regex"):
        MaskImportConfig(group_regex="(")
