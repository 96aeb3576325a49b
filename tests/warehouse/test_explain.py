from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from builders import write_run
from haustra.core.errors import HaustraError
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.explain import explain_sample
from haustra.warehouse.splits import explain_split, group_hash, group_position
from scenes import write_warehouse


def test_a_sample_is_explained_with_its_boxes_in_source_pixels(tmp_path: Path) -> None:
    small, large = (1, 2, 5, 6), (8, 4, 24, 20)
    write_run(tmp_path / "captures" / "run_a", [small, large], run_id="a", group_id="patient")
    manifest = build_warehouse(
        ETLConfig(
            captures=tmp_path / "captures",
            output_root=tmp_path / "warehouse",
            target_size="64",
            max_boxes=1,
        )
    ).manifest_path
    found = asdict(explain_sample(manifest, sample_id="a/frame_00000"))
    digest, shard = found.pop("source_sha256"), found.pop("shard")
    assert digest == open_split(manifest, split="train").table["source_sha256"][0].as_py()
    assert (manifest.parent / shard).is_file()
    # 32x24 doubled to 64x48, with 8 rows of padding above and below.
    np.testing.assert_allclose(found.pop("boxes_xyxy"), [(0.25, 0.25, 0.75, 0.75)])
    np.testing.assert_allclose(found.pop("boxes_source_px"), [large])
    assert found == {
        "sample_id": "a/frame_00000",
        "run_id": "a",
        "group_id": "patient",
        "split": "train",
        "split_reason": "the group's hash 0.135101 lies in train's range 0 to 0.8",
        "source_name": None,
        "source_image": "images/frame_00000.png",
        "source_size_wh": (32, 24),
        "target_size_wh": (64, 64),
        "resize_mode": "letterbox",
        "scale_xy": (2.0, 2.0),
        "offset_xy": (0, 8),
        "boxes_before": 2,
        "boxes_after": 1,
        "row": 0,
    }


def test_boxes_are_those_that_training_reads(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    split = open_split(manifest, split="val")
    batch = split.gather(np.arange(len(split)))
    for index, sample_id in enumerate(split.sample_ids()):
        found = explain_sample(manifest, sample_id=sample_id)
        stored = batch.boxes_xyxy[index][batch.mask[index] == 1]
        assert len(found.boxes_xyxy) == len(stored) == found.boxes_after
        np.testing.assert_array_equal(np.reshape(found.boxes_xyxy, (-1, 4)), stored)


def test_an_unknown_sample_is_answered_with_the_closest_names(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    with pytest.raises(HaustraError) as caught:
        explain_sample(manifest, sample_id="r003/frame_0002")
    assert str(caught.value) == (
        f"{manifest} has no sample 'r003/frame_0002'; expected run_id/frame, such as "
        "r003/frame_00002, r007/frame_00002, r006/frame_00002"
    )


def test_a_damaged_shard_is_not_explained(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    shard = manifest.parent / explain_sample(manifest, sample_id="r003/frame_00002").shard
    shard.write_bytes(shard.read_bytes()[:-1] + b"\2")
    with pytest.raises(HaustraError, match="its bytes have changed"):
        explain_sample(manifest, sample_id="r003/frame_00002")


def test_the_hash_of_a_group_is_its_sha256() -> None:
    # sha256("a") = ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb
    assert f"{group_hash('a'):x}"[:8] == "ca978112"
    assert group_position("a") == pytest.approx(0xCA978112 / 2**32)


@pytest.mark.parametrize(
    ("split", "method", "reason"),
    [
        (
            "val",
            "ratios 0.5,0.4,0.1",
            "the group's hash 0.791374 lies in val's range 0.5 to 0.9",
        ),
        (
            "test",
            "ratios 0.5,0.4,0.1",
            ("the group's hash 0.791374 lies in val's range 0.5 to 0.9, but it is in test"),
        ),
        (
            "test",
            "ratios 0.333333,0.333333,0.333333",
            "the group's hash 0.791374 lies in test's range 0.666666 to 1",
        ),
        (
            "train",
            "rule sha256:5",
            "the group's hash modulo 5 is 4; 0 is val, any other train",
        ),
        ("val", "rule sha256:19", "the group's hash modulo 19 is 0; 0 is val, any other train"),
        (
            "val",
            "rule sha256:5",
            ("the group's hash modulo 5 is 4; 0 is val, any other train, but it is in val"),
        ),
        ("test", "dataset", "the dataset puts the group's runs into 'test'"),
        ("test", "file", "the split file lists the group under 'test'"),
    ],
)
def test_the_reason_for_a_split_names_the_hash_and_its_range(
    split: str, method: str, reason: str
) -> None:
    assert explain_split("a", split=split, method=method) == reason  # type: ignore[arg-type]
