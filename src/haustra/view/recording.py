"""Recordings: run folders of the frames that were shown, with the boxes as labels."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.captures.schema import RunManifest
from haustra.captures.sources import SourceFrame
from haustra.captures.writer import PolypTruth, RunWriter, writing_run
from haustra.core.detections import Detections
from haustra.core.drawing import draw_boxes
from haustra.core.files import write_json_atomic
from haustra.core.images import encode_png


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A run folder that is being written: images, predicted labels, overlays, a manifest."""

    folder: Path
    """The run folder; it appears when the recording ends."""
    writer: RunWriter

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return self.writer.num_frames

    def add(self, frame: SourceFrame, shown: Detections) -> None:
        """Write a frame with the boxes that it shows."""
        name = f"frame_{self.num_frames:05d}.png"
        overlay = encode_png(draw_boxes(frame.image_rgb, shown))
        (self.writer.folder / "overlays" / name).write_bytes(overlay)
        self.writer.add_frame(
            encode_png(frame.image_rgb),
            suffix=".png",
            image_size_wh=shown.image_size_wh,
            labels=[
                PolypTruth(bbox_px=tuple(box.tolist()), score=float(score))
                for box, score in zip(shown.boxes_px, shown.scores, strict=True)
            ],
            sim_time=frame.seconds,
        )

    def add_file(self, name: str, *, value: Any) -> None:
        """Write a JSON file into the run folder."""
        write_json_atomic(self.writer.folder / name, value=value)


@contextmanager
def recording_run(root: Path, *, frame_rate_hz: float | None, caption: str) -> Iterator[Recording]:
    """Yield a recording below `root`; its folder appears, whole, at the end without an error.

    Args:
        root: Folder that receives the run folder.
        frame_rate_hz: Frame rate of the source; None where not every frame is written.
        caption: Name of the detector.
    """
    now = time.time()
    stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now))
    run_id = f"view_{stamp}_{int(now * 1000) % 1000:03d}"
    folder = root / f"run_{run_id}"
    with writing_run(
        folder,
        manifest=RunManifest(
            run_id=run_id,
            source="inference",
            group_id=run_id,
            started_at_unix=now,
            frame_rate_hz=frame_rate_hz,
            detector=caption,
        ),
        label_source="model",
    ) as writer:
        yield Recording(folder=folder, writer=writer)
