"""Run folders of what a detector saw: images, predicted labels, overlays, a manifest."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from haustra.captures.sources import SourceFrame
from haustra.captures.writer import PolypTruth, RunWriter, writing_run
from haustra.core.detections import Detections
from haustra.core.drawing import draw_boxes
from haustra.core.files import write_json_atomic
from haustra.core.images import encode_png


class Recorder:
    """Writes one run folder after the other; each appears, whole, when it is finished.

    Args:
        root: folder that receives them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stack = ExitStack()
        self._writer: RunWriter | None = None
        self._folder = root

    @property
    def is_on(self) -> bool:
        """Whether a run folder is being written."""
        return self._writer is not None

    @property
    def num_frames(self) -> int:
        """Frames of the run folder that is being written."""
        return self._writer.num_frames if self._writer is not None else 0

    def begin(self, *, frame_rate_hz: float | None, caption: str) -> None:
        """Begin a run folder.

        Args:
            frame_rate_hz: of the source, where every frame of it is written.
            caption: name of the detector.

        Raises:
            HaustraError: the folder exists already.
        """
        now = time.time()
        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now))
        run_id = f"view_{stamp}_{int(now * 1000) % 1000:03d}"
        self._folder = self._root / f"run_{run_id}"
        self._writer = self._stack.enter_context(
            writing_run(
                self._folder,
                run_id=run_id,
                source="inference",
                label_source="model",
                group_id=run_id,
                started_at_unix=now,
                frame_rate_hz=frame_rate_hz,
                detector=caption,
            )
        )

    def add(self, frame: SourceFrame, shown: Detections) -> None:
        """Write a frame with the boxes that it shows."""
        writer = self._writer
        if writer is None:
            raise AssertionError("no recording was begun")
        name = f"frame_{writer.num_frames:05d}.png"
        overlay = encode_png(draw_boxes(frame.image_rgb, shown))
        (writer.folder / "overlays" / name).write_bytes(overlay)
        writer.add_frame(
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
        if self._writer is None:
            raise AssertionError("no recording was begun")
        write_json_atomic(self._writer.folder / name, value=value)

    def finish(self) -> Path:
        """Let the run folder appear and return it."""
        self._writer = None
        self._stack.close()
        return self._folder

    def abandon(self, error: BaseException) -> None:
        """Remove what was written of the run folder."""
        self._writer = None
        self._stack.__exit__(type(error), error, error.__traceback__)
