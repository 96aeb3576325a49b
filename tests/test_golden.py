"""Files of earlier format versions are read for ever, and give the same samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import golden_images
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError
from haustra.models.checkpoint import read_checkpoint
from haustra.models.predict import predict_slots
from haustra.models.tensor_file import weights_digest
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import SPLIT_NAMES, read_manifest
from haustra.warehouse.shard_stores import StoreConfig, StoreName
from haustra.warehouse.verify import verify_warehouse

GOLDEN = Path(__file__).parent / "golden" / "format_v1"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
WAREHOUSE = GOLDEN / f"v{EXPECTED['version']}"


@pytest.mark.parametrize("store", ["memory", "mmap", "stream"])
def test_every_sample_of_the_golden_warehouse_is_read(store: StoreName) -> None:
    found = {}
    for name in SPLIT_NAMES:
        split = open_split(WAREHOUSE, split=name, config=StoreConfig(kind=store))
        batch = split.gather(np.arange(len(split)))
        for number, sample_id in enumerate(split.sample_ids()):
            found[sample_id] = {
                "split": name,
                "image_sha256": digest_bytes(batch.images[number].tobytes()),
                "boxes_xyxy": batch.boxes_xyxy[number][batch.mask[number] == 1].tolist(),
            }
    assert found == EXPECTED["samples"]
    assert len(found) == 13


def test_the_golden_warehouse_verifies() -> None:
    assert verify_warehouse(WAREHOUSE).problems == ()


def test_the_golden_captures_give_the_golden_warehouse(tmp_path: Path) -> None:
    manifest = read_manifest(WAREHOUSE)
    config = ETLConfig(
        captures=GOLDEN / "captures",
        output_root=tmp_path,
        target_size="32",
        max_boxes=2,
        split="0.36,0.5,0.14",
        max_missing="1",
        samples_per_shard=2,
    )
    made = build_warehouse(config).manifest
    assert made.version == manifest.version
    # The table's bytes depend on the version of the Parquet library.
    assert made.model_copy(update={"table": manifest.table}) == manifest


@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_detectors_of_checkpoint_version_3_are_read_and_answer_as_then(kind: str) -> None:
    folder = GOLDEN.with_name("format_v3")
    expected = json.loads((folder / "expected.json").read_text())[kind]
    header, model = read_checkpoint(folder / f"{kind}det.bin")
    assert header.kind_name == f"{kind}det"
    assert weights_digest(model.state_dict()) == expected["weights_sha256"]
    boxes, scores = predict_slots(model)(golden_images())
    np.testing.assert_allclose(boxes, expected["boxes_xyxy"], atol=1e-4)
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-3)


def test_a_later_format_version_is_refused_naming_both(tmp_path: Path) -> None:
    copy = shutil.copytree(WAREHOUSE, tmp_path / WAREHOUSE.name)
    value = json.loads((copy / "manifest.json").read_text()) | {"format_version": 2}
    (copy / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(HaustraError) as caught:
        open_split(copy, split="train")
    assert str(caught.value) == (
        f"{copy / 'manifest.json'} has format version 2; this haustra reads version 1; build it "
        "again with `haustra etl`, or use the haustra that wrote it"
    )
