from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import write_json
from haustra.core import look_alikes
from haustra.core.errors import HaustraError
from haustra.core.images import encode_png
from haustra.core.look_alikes import near_pairs, perceptual_hash
from haustra.warehouse.audit import AuditConfig, audit_warehouse
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig


def smooth_picture(seed: int, *, size_wh: tuple[int, int] = (80, 64)) -> NDArray[np.uint8]:
    """A picture of soft blobs, as a colon's light and folds are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int((perceptual_hash(a) != perceptual_hash(b)).sum())


def test_a_hash_survives_size_compression_and_brightness_but_no_flip() -> None:
    picture = smooth_picture(1)
    jpeg = cv2.imdecode(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR
    )
    larger = cv2.resize(picture, (160, 128), interpolation=cv2.INTER_LINEAR)
    darker = (picture * 0.8).astype(np.uint8)
    for same in (np.asarray(jpeg, np.uint8), np.asarray(larger, np.uint8), darker):
        assert distance(picture, same) <= 4
    assert distance(picture, picture) == 0
    assert distance(picture, picture[:, ::-1].copy()) > 10
    assert min(distance(picture, smooth_picture(seed)) for seed in range(2, 30)) > 10


def test_flat_pictures_hash_alike() -> None:
    black, grey = np.zeros((40, 50, 3), np.uint8), np.full((64, 64, 3), 77, np.uint8)
    assert not perceptual_hash(black).any()
    assert distance(black, grey) == 0


@pytest.mark.parametrize("block_size", [3, 4096])
@pytest.mark.parametrize("max_distance", [0, 6, 24, 64])
def test_pairs_are_those_of_counting_every_pair(
    monkeypatch: pytest.MonkeyPatch, block_size: int, max_distance: int
) -> None:
    monkeypatch.setattr(look_alikes, "BLOCK_SIZE", block_size)
    rng = np.random.default_rng(5)
    a, b = rng.random((20, 64)) < 0.5, rng.random((31, 64)) < 0.5
    b[4], b[9] = a[3], a[7]
    b[9, :6] ^= True
    counted = {
        (i, j, int((x != y).sum()))
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if (x != y).sum() <= max_distance
    }
    found = [
        (int(i), int(j), int(d))
        for block in near_pairs(a, b, max_distance=max_distance)
        for i, j, d in zip(*block, strict=True)
    ]
    assert set(found) == counted
    assert len(found) == len(counted)


def write_pictures(root: Path, pictures: dict[str, list[NDArray[np.uint8]]]) -> Path:
    """Write a run per group and build the warehouse, whose splits the groups' names begin with."""
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for group, images in pictures.items():
        folder = root / "captures" / group
        (folder / "images").mkdir(parents=True)
        for index, image in enumerate(images):
            name = f"frame_{index:05d}"
            (folder / f"images/{name}.png").write_bytes(encode_png(image))
            label = {"schema_version": 1, "frame_id": index, "image": f"images/{name}.png"}
            write_json(folder / f"labels/{name}.json", label | {"labels": []})
        write_json(folder / "run_manifest.json", {"schema_version": 1, "run_id": group})
        splits[group.split("_")[0]].append(group)
    write_json(root / "splits.json", splits)
    return build_warehouse(
        ETLConfig(
            captures=root / "captures",
            output_root=root / "warehouse",
            target_size="64",
            split_file=root / "splits.json",
        )
    ).manifest_path


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
    assert found.pairs[0].distance == 0 < found.pairs[1].distance <= 6
    nearest = audit_warehouse(manifest, config=AuditConfig(max_pairs=1))
    assert (nearest.num_pairs, nearest.pairs) == (3, found.pairs[:1])
    exact = audit_warehouse(manifest, config=AuditConfig(max_distance=0))
    assert exact.pairs == found.pairs[:1]


def test_padding_does_not_make_images_alike(tmp_path: Path) -> None:
    tall = [smooth_picture(seed, size_wh=(20, 160)) for seed in range(6)]
    manifest = write_pictures(tmp_path, {"train_a": tall[:3], "val_a": tall[3:]})
    assert audit_warehouse(manifest, config=AuditConfig(max_distance=12)).num_pairs == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_distance": 65}, "max_distance=65: expected a whole number from 0 to 64"),
        ({"max_pairs": 0}, "max_pairs=0: expected a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        AuditConfig(**settings)
    assert str(caught.value) == message
