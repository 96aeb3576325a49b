from pathlib import Path

import numpy as np
import pytest

from haustra.core.errors import HaustraError
from haustra.warehouse.audit import AuditConfig, audit_warehouse
from scenes import smooth_picture, write_pictures


def test_pairs_across_splits_are_named_nearest_first_and_others_are_not(tmp_path: Path) -> None:
    first, second = smooth_picture(1), smooth_picture(2)
    noise = np.random.default_rng(0).integers(-12, 13, first.shape)
    noisy = np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)
    manifest = write_pictures(
        tmp_path,
        {
            "train_a": [first, first, smooth_picture(3)],  # the twin in the same split is no leak
            "val_a": [noisy, smooth_picture(4)],
            "test_a": [second, smooth_picture(5, size_wh=(64, 80))],
            "train_b": [second],
        },
    )
    found = audit_warehouse(manifest)
    pairs = [(p.split_a, p.sample_a, p.split_b, p.sample_b) for p in found.pairs]
    assert found.num_images == 8
    assert found.num_pairs == 3
    assert pairs == [
        ("train", "train_b/frame_00000", "test", "test_a/frame_00000"),
        ("train", "train_a/frame_00000", "val", "val_a/frame_00000"),
        ("train", "train_a/frame_00001", "val", "val_a/frame_00000"),
    ]
    assert found.pairs[0].difference == 0 < found.pairs[1].difference <= 0.02
    nearest = audit_warehouse(manifest, config=AuditConfig(max_pairs=1))
    assert (nearest.num_pairs, nearest.pairs) == (3, found.pairs[:1])


def test_padding_does_not_make_images_alike(tmp_path: Path) -> None:
    tall = [smooth_picture(seed, size_wh=(20, 160)) for seed in range(6)]
    manifest = write_pictures(tmp_path, {"train_a": tall[:3], "val_a": tall[3:]})
    assert audit_warehouse(manifest).num_pairs == 0


def test_a_number_of_pairs_out_of_range_is_refused() -> None:
    with pytest.raises(HaustraError) as caught:
        AuditConfig(max_pairs=0)
    assert str(caught.value) == "max_pairs=0: expected a whole number of at least 1"
