import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haustra.core.errors import HaustraError
from haustra.training.batches import EpochAugmentation, training_batches
from haustra.training.config import TrainConfig
from haustra.training.negatives import (
    BOX_MARGIN,
    Negatives,
    clean_frames,
    draw_window,
    find_negatives,
    free_windows,
    truncated_samples,
)
from haustra.training.recipe import FULL
from haustra.training.state import differing_settings
from haustra.warehouse.dataset import Batch, Split, open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.order import epoch_order
from scenes import write_captures, write_warehouse

NO_IMAGES = np.zeros((0, 64, 64, 3), dtype=np.uint8)
NO_SAMPLES = np.zeros(0, dtype=np.int64)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("warehouse")
    return open_split(write_warehouse(folder, num_runs=12), split="train")


def batches_of(
    split: Split,
    negatives: Negatives | None,
    *,
    augmentation: EpochAugmentation | None = None,
    batch_size: int = 8,
    first_batch: int = 0,
) -> list[tuple[list[int], Batch]]:
    order = epoch_order(split.shard_sizes, seed=1, epoch=0)
    found = training_batches(
        split,
        order=order,
        batch_size=batch_size,
        seed=1,
        epoch=0,
        augmentation=augmentation,
        negatives=negatives,
        first_batch=first_batch,
    )
    return [(indices.tolist(), batch) for indices, batch in found]


def bytes_of(batches: list[tuple[list[int], Batch]]) -> list[bytes]:
    return [batch.images.tobytes() + batch.boxes_xyxy.tobytes() for _, batch in batches]


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("augmentation", [None, EpochAugmentation(FULL, (64, 64))])
def test_every_batch_holds_the_stated_share(
    split: Split, share: float, augmentation: EpochAugmentation | None
) -> None:
    negatives = find_negatives(split, share=share)
    assert negatives is not None
    total, position = 0, 0
    for _, batch in batches_of(split, negatives, augmentation=augmentation):
        taken = [negatives.takes(position + row) for row in range(len(batch.images))]
        assert math.floor(8 * share) <= sum(taken) <= math.ceil(8 * share)
        assert not batch.mask[taken].any()
        total += sum(taken)
        position += len(taken)
    assert abs(total - share * len(split)) < 1


def test_the_other_samples_stay_as_they_are(split: Split) -> None:
    negatives = find_negatives(split, share=0.25)
    assert negatives is not None
    position = 0
    for indices, batch in batches_of(split, negatives):
        for row, index in enumerate(indices):
            image, boxes = split.view(index)
            if not negatives.takes(position + row):
                assert (batch.images[row] == image).all()
                np.testing.assert_allclose(batch.boxes_xyxy[row, : len(boxes)], boxes, atol=1e-6)
        position += len(indices)


def test_a_share_of_zero_changes_no_sample(split: Split) -> None:
    assert find_negatives(split, share=0.0) is None
    never = Negatives(share=0.0, simulated=NO_IMAGES, clean=NO_SAMPLES)
    full = EpochAugmentation(FULL, (64, 64))
    without = bytes_of(batches_of(split, None, augmentation=full))
    assert without == bytes_of(batches_of(split, never, augmentation=full))


def test_negatives_depend_neither_on_workers_nor_on_the_first_batch(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    negatives, full = find_negatives(split, share=0.5), EpochAugmentation(FULL, (64, 64))
    found = bytes_of(batches_of(split, negatives, augmentation=full))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert bytes_of(batches_of(split, negatives, augmentation=full)) == found
    assert bytes_of(batches_of(split, negatives, augmentation=full, first_batch=1)) == found[1:]


unit = st.floats(0, 1, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(unit, unit, unit, unit), max_size=5), st.integers(0, 100))
def test_a_window_keeps_its_distance_to_every_labeled_box(
    corners: list[tuple[float, float, float, float]], seed: int
) -> None:
    boxes = np.array(
        [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    ).reshape(-1, 4)
    window = draw_window(boxes, np.random.default_rng(seed))
    if window is None:
        assert not len(free_windows(boxes))
        return
    x0, y0, x1, y1 = window
    assert 0 <= x0 < x1 <= 1
    assert 0 <= y0 < y1 <= 1
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert x1 - x0 >= 1 / 3 - 1e-9
    for left, top, right, bottom in boxes:
        margin = BOX_MARGIN * max(right - left, bottom - top) - 1e-9
        apart_x = x1 <= left - margin or x0 >= right + margin
        apart_y = y1 <= top - margin or y0 >= bottom + margin
        assert apart_x or apart_y


def test_an_image_that_a_polyp_fills_has_no_window() -> None:
    boxes = np.array([[0.2, 0.2, 0.8, 0.8]])
    assert draw_window(boxes, np.random.default_rng(0)) is None


def test_windows_without_simulated_frames_show_no_labeled_pixel(split: Split) -> None:
    """Discs are brighter than anything else in the scenes."""
    windows = Negatives(share=1.0, simulated=NO_IMAGES, clean=NO_SAMPLES)
    green = [batch.images[..., 1] for _, batch in batches_of(split, windows)]
    stored = [split.view(index)[0][..., 1] for index in range(len(split))]
    discs = np.percentile(np.stack(stored), 99.5)
    assert discs > 160
    assert np.concatenate(green).max() < 160


def test_no_window_is_taken_from_an_image_that_has_more_polyps_than_boxes(split: Split) -> None:
    every_sample = frozenset(range(len(split)))
    frame = np.full((1, *split.view(0)[0].shape), 7, np.uint8)
    negatives = Negatives(share=1.0, simulated=frame, clean=NO_SAMPLES, truncated=every_sample)
    for _, batch in batches_of(split, negatives):
        assert (batch.images == 7).all()


def test_samples_that_lost_boxes_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    write_captures(folder)
    config = ETLConfig(captures=folder, output_root=tmp_path / "out", target_size="64", max_boxes=1)
    split = open_split(build_warehouse(config).manifest_path, split="train")
    rows = split.table.to_pylist()
    lost = {n for n, row in enumerate(rows) if row["boxes_before"] > 1}
    assert lost
    assert truncated_samples(split) == lost
    assert set(find_negatives(split, share=0.5).truncated) == lost  # type: ignore[union-attr]


def test_clean_frames_of_the_warehouse_are_taken_whole(split: Split) -> None:
    negatives = find_negatives(split, share=1.0)
    assert negatives is not None
    clean = {split.view(index)[0].tobytes() for index in negatives.clean.tolist()}
    assert len(clean) > 1  # each run has one
    images = [
        image.tobytes() for _, batch in batches_of(split, negatives) for image in batch.images
    ]
    assert clean & set(images)


def test_without_any_source_the_sample_itself_is_used(split: Split) -> None:
    negatives = Negatives(share=1.0, simulated=NO_IMAGES, clean=NO_SAMPLES)
    image, boxes = np.full((64, 64, 3), 7, np.uint8), np.array([[6.0, 6.0, 58.0, 58.0]])
    read = negatives.reader(
        lambda _: (image, boxes), partners=np.arange(3), rng=np.random.default_rng(0)
    )
    assert (read(0)[1] == boxes).all()


def test_simulated_frames_have_the_size_of_the_warehouse_and_two_disjoint_sets() -> None:
    train, held_out = (clean_frames(name, size_wh=(96, 64)) for name in ("train", "held_out"))
    assert train.shape == (96, 64, 96, 3)
    assert held_out.shape == (48, 64, 96, 3)
    assert not {frame.tobytes() for frame in train} & {frame.tobytes() for frame in held_out}


def test_a_state_from_before_negatives_had_none() -> None:
    before = TrainConfig(manifest="m").to_json()
    now = before | {"negatives": 0.1}
    del before["negatives"]
    [phrase] = differing_settings(before, now, versions=("1", "1"))
    assert str(HaustraError(phrase)) == "negatives=0.0 (now 0.1)"
    assert differing_settings(before, now | {"negatives": 0.0}, versions=("1", "1")) == []
