"""Writing a run folder: images and labels first, `run_manifest.json` last, then the rename."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haustra import __version__
from haustra.captures.schema import SCHEMA_VERSION, RunManifest
from haustra.core.files import building_folder, link_or_copy, write_json_atomic
from haustra.core.paths import StrPath, to_path


@dataclass(frozen=True, kw_only=True)
class PolypTruth:
    """One polyp on one frame, from the producer of the run."""

    bbox_px: tuple[float, float, float, float]  # `x0,y0,x1,y1` in pixels
    lesion_id: str | None = None
    center_world: tuple[float, float, float] | None = None
    visible_fraction: float | None = None
    size_mm: float | None = None
    paris_class: str | None = None
    histology: str | None = None
    site: str | None = None  # part of the colon
    score: float | None = None
    """Score of a detection that is written as a label; None for ground truth."""


@dataclass(kw_only=True)
class RunWriter:
    """Adds frames to an empty run folder, and its manifest at the end."""

    folder: Path
    manifest: RunManifest
    label_source: str | None = None  # source that the labels name, instead of the run's
    num_frames: int = field(default=0, init=False)
    manifest_fields: dict[str, Any] = field(default_factory=dict, init=False)
    """Fields of the manifest that are known only after the last frame."""

    def __post_init__(self) -> None:
        for name in ("images", "labels", "overlays"):
            (self.folder / name).mkdir()

    def add_frame(
        self,
        image: Path | bytes,
        *,
        suffix: str,
        image_size_wh: tuple[int, int],
        labels: list[PolypTruth] | None,
        group_id: str | None = None,
        source_name: str | None = None,
        sim_time: float | None = None,
        unix_time: float | None = None,
        crop_px: tuple[int, int, int, int] | None = None,
        rejected: Sequence[str] = (),
    ) -> None:
        """Add one frame with its label, or nothing if an error is raised.

        Args:
            image: Bytes of an image file, or its path; it is hard-linked or copied unchanged.
            suffix: Suffix of the image's format, ".png" or ".jpg".
            image_size_wh: Width and height in pixels, for the normalized boxes.
            labels: The polyps; None writes no label file, so that the frame counts as unlabeled.
            group_id: Group of this frame, instead of the run's.
            source_name: Name of the frame before it was added.
            sim_time: Seconds since the run began.
            unix_time: Seconds since 1970.
            crop_px: Part of the original image that this is; stored only if there is one.
            rejected: A reason for each box that could not be used; stored only if there is one.
        """
        name = f"frame_{self.num_frames:05d}"
        image_name = f"images/{name}{suffix}"
        label: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "frame_id": self.num_frames,
            "sim_time": sim_time,
            "unix_time": unix_time,
            "image": image_name,
            "image_present": True,
            "camera_active": True,
            "label_seed": self.manifest.seed,
            "source": self.label_source or self.manifest.source,
            "source_name": source_name,
            "group_id": group_id,
        }
        if crop_px:
            label["crop_px"] = list(crop_px)
        if rejected:
            label["rejected"] = list(rejected)
        values = (_label_json(truth, size_wh=image_size_wh) for truth in labels or ())
        polyps = ",\n  ".join(map(_to_json, values))
        # A line for each polyp: with `indent`, Python's encoder takes six times as long.
        text = f'{_to_json(label)[:-1]},\n "labels": [{polyps}]}}\n'
        image_path, label_path = self.folder / image_name, self.folder / "labels" / f"{name}.json"
        try:
            if isinstance(image, bytes):
                image_path.write_bytes(image)
            else:
                link_or_copy(image, target=image_path)
            if labels is not None:
                label_path.write_text(text)
        except BaseException:
            image_path.unlink(missing_ok=True)
            label_path.unlink(missing_ok=True)
            raise
        self.num_frames += 1

    def rename_group(self, number: int, *, old: str, new: str) -> None:
        """Give a labeled frame another group than the one that it was added with."""
        path = self.folder / f"labels/frame_{number:05d}.json"
        was, becomes = (f'"group_id": {json.dumps(name)}' for name in (old, new))
        path.write_text(path.read_text().replace(was, becomes, 1))

    def write_manifest(self) -> None:
        """Write the manifest, which makes the folder complete.

        The number of frames and the version of haustra are filled in.
        """
        written = {"num_frames": self.num_frames, "haustra_version": __version__}
        value = self.manifest.model_dump() | written | self.manifest_fields
        for name in ("split", "detector", "crop", "import_result"):
            if value[name] is None:
                del value[name]
        write_json_atomic(self.folder / "run_manifest.json", value=value)


_to_json = json.JSONEncoder(allow_nan=False).encode


def _label_json(truth: PolypTruth, *, size_wh: tuple[int, int]) -> dict[str, Any]:
    box = [float(value) for value in truth.bbox_px]
    value = {
        "lesion_id": truth.lesion_id,
        "center_world": list(truth.center_world) if truth.center_world else None,
        "bbox_px": box,
        "bbox_norm": [value / size_wh[index % 2] for index, value in enumerate(box)],
        "visible_fraction": truth.visible_fraction,
        "size_mm": truth.size_mm,
        "paris_class": truth.paris_class,
    }
    extra = {"histology": truth.histology, "site": truth.site, "score": truth.score}
    return value | {name: stated for name, stated in extra.items() if stated is not None}


@contextmanager
def writing_run(
    folder: StrPath, *, manifest: RunManifest, overwrite: bool = False
) -> Iterator[RunWriter]:
    """Yield a writer for a run folder that appears, whole, when the block ends.

    The number of frames and the version of haustra are filled into the manifest.

    Raises:
        HaustraError: `folder` exists and `overwrite` is False.
    """
    with building_folder(to_path(folder), overwrite=overwrite) as building:
        writer = RunWriter(folder=building, manifest=manifest)
        yield writer
        writer.write_manifest()
