"""Comparing two warehouses sample by sample: added, removed, relabeled, changed or moved."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from haustra.core.paths import StrPath
from haustra.warehouse.table import Row, StoredSamples

CONTENT_FIELDS = {
    "version", "splits", "shards", "table", "sources", "truncated_boxes", "validation",
    "quarantined",
}  # fmt: skip
"""Fields of the manifest that follow from the captures; the others are settings."""

BOX_TOLERANCE_PX = 0.01
"""Source pixels by which float32 may move a box between two target sizes; labels are coarser."""


@dataclass(frozen=True, kw_only=True)
class WarehouseDiff:
    """The differences of B from A. A sample is named by its id and may be in several lists."""

    version_a: str
    version_b: str
    num_a: int  # number of samples in A
    num_b: int
    num_same: int  # number of samples that are in both and in none of the lists
    added: tuple[str, ...]  # samples in B only
    removed: tuple[str, ...]  # samples in A only
    relabelled: tuple[str, ...]
    """Samples whose boxes differ; with two settings of `max_boxes`, those that both keep."""
    changed_pixels: tuple[str, ...]  # samples whose source image has other bytes
    moved: tuple[tuple[str, str, str], ...]  # sample, split in A, split in B
    regrouped: tuple[tuple[str, str, str], ...]  # sample, group in A, group in B
    settings: dict[str, tuple[Any, Any]]
    """Fields of the manifest that differ, with A's and B's value."""
    sources: tuple[str, ...]  # runs in both whose provenance or terms differ

    @property
    def finds_nothing(self) -> bool:
        """True if samples, settings and sources are equal."""
        return not any(
            [
                *(self.added, self.removed, self.relabelled, self.changed_pixels),
                *(self.moved, self.regrouped, self.settings, self.sources),
            ]
        )


def _has_other_boxes(a: StoredSamples, b: StoredSamples, *, row_a: Row, row_b: Row) -> bool:
    """Compare the boxes that both keep: exactly where the transform is the same, else in pixels."""
    if row_a["boxes_before"] != row_b["boxes_before"]:
        return True
    num_common = min(a.manifest.max_boxes, b.manifest.max_boxes)
    boxes_a, boxes_b = a.boxes_of(row_a)[:num_common], b.boxes_of(row_b)[:num_common]
    letterbox_a = a.manifest.letterbox_of(row_a)
    letterbox_b = b.manifest.letterbox_of(row_b)
    if len(boxes_a) != len(boxes_b):
        return True
    if letterbox_a == letterbox_b:
        return not np.array_equal(boxes_a, boxes_b)
    return not np.allclose(
        letterbox_a.boxes_to_source(boxes_a),
        letterbox_b.boxes_to_source(boxes_b),
        rtol=0,
        atol=BOX_TOLERANCE_PX,
    )


def diff_warehouses(manifest_a: StrPath, manifest_b: StrPath) -> WarehouseDiff:
    """Compare two warehouses by sample id, after checking all digests of both."""
    a, b = StoredSamples(manifest_a), StoredSamples(manifest_b)
    rows_a, rows_b = ({row["sample_id"]: row for row in stored.rows} for stored in (a, b))
    common = sorted(rows_a.keys() & rows_b.keys())

    def changed(column: str) -> list[tuple[str, str, str]]:
        """Return each common sample with another value, with A's and B's."""
        values = ((name, rows_a[name][column], rows_b[name][column]) for name in common)
        return [(name, of_a, of_b) for name, of_a, of_b in values if of_a != of_b]

    relabeled = tuple(
        name for name in common if _has_other_boxes(a, b, row_a=rows_a[name], row_b=rows_b[name])
    )
    changed_pixels = tuple(name for name, _, _ in changed("source_sha256"))
    moved, regrouped = tuple(changed("split")), tuple(changed("group_id"))
    touched = {*relabeled, *changed_pixels, *(name for name, _, _ in (*moved, *regrouped))}
    values_a, values_b = a.manifest.model_dump(), b.manifest.model_dump()
    source_of_run = {source.run_id: source for source in a.manifest.sources}
    return WarehouseDiff(
        version_a=a.manifest.version,
        version_b=b.manifest.version,
        num_a=len(a.rows),
        num_b=len(b.rows),
        num_same=len(common) - len(touched),
        added=tuple(sorted(rows_b.keys() - rows_a.keys())),
        removed=tuple(sorted(rows_a.keys() - rows_b.keys())),
        relabelled=relabeled,
        changed_pixels=changed_pixels,
        moved=moved,
        regrouped=regrouped,
        settings={
            name: (values_a[name], values_b[name])
            for name in values_a
            if name not in CONTENT_FIELDS and values_a[name] != values_b[name]
        },
        sources=tuple(
            source.run_id
            for source in b.manifest.sources
            if source_of_run.get(source.run_id, source) != source
        ),
    )
