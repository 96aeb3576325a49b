import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from haustra.core.errors import HaustraError
from haustra.warehouse.explain import explain_sample
from haustra.warehouse.summary import export_summary, next_command
from scenes import write_warehouse


def test_parquet_and_csv_hold_every_sample_with_its_boxes(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    done = export_summary(manifest.parent, out=tmp_path / "out" / "summary.parquet")
    rows = pq.read_table(done.path).to_pylist()
    assert done.num_samples == len(rows) == 32
    assert done.num_boxes == sum(row["num_boxes"] for row in rows) > 0
    table = pq.read_table(manifest.parent / "samples.parquet").to_pylist()
    for row, expected in zip(rows, table, strict=True):
        found = explain_sample(manifest, sample_id=row["sample_id"])
        assert {name: row[name] for name in expected} == expected
        assert row["num_boxes"] == row["boxes_after"] == len(row["boxes_xyxy"])
        np.testing.assert_array_equal(
            np.array(row["boxes_xyxy"], np.float32).reshape(-1, 4),
            np.array(found.boxes_xyxy, np.float32).reshape(-1, 4),
        )
        np.testing.assert_allclose(
            np.reshape(row["boxes_source_px"], (-1, 4)),
            np.reshape(found.boxes_source_px, (-1, 4)),
            atol=5.1e-4,
        )
    export_summary(manifest, out=tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        as_text = list(csv.DictReader(file))
    assert [row["sample_id"] for row in as_text] == [row["sample_id"] for row in rows]
    assert [json.loads(row["boxes_xyxy"]) for row in as_text] == [r["boxes_xyxy"] for r in rows]
    assert list(as_text[0]) == list(rows[0])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("summary.xlsx", "out='{out}': expected a file name that ends in .parquet or .csv"),
        ("folder.csv", "out='{out}' is a folder; expected a file name"),
        (
            "warehouse/{version}/samples.parquet",
            ("out='{out}' is inside the warehouse, which never changes; expected another folder"),
        ),
    ],
)
def test_a_place_that_cannot_take_the_summary_is_named(
    tmp_path: Path, out: str, message: str
) -> None:
    manifest = write_warehouse(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    path = tmp_path / out.format(version=manifest.parent.name)
    with pytest.raises(HaustraError) as caught:
        export_summary(manifest, out=path)
    assert str(caught.value) == message.format(out=path)


@pytest.mark.parametrize(("max_boxes", "model"), [(1, "tiny"), (4, "big")])
def test_the_next_command_takes_the_model_that_the_boxes_need(
    tmp_path: Path, max_boxes: int, model: str
) -> None:
    manifest = write_warehouse(tmp_path, max_boxes=max_boxes)
    assert next_command(manifest.parent) == [
        "haustra",
        "train",
        "--manifest",
        str(manifest),
        "--model",
        model,
    ]
