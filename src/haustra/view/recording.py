"""Recordings: run folders of the frames that were shown, with the boxes as labels.

They are kept whatever happens: a recording that a full disk, an error or Ctrl-C ends is finished
with the frames that it has.
"""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from haustra.captures.schema import RunManifest
from haustra.captures.sources import SourceFrame
from haustra.captures.writer import PolypTruth, RunWriter
from haustra.core.detections import Detections
from haustra.core.drawing import draw_boxes
from haustra.core.files import move_folder, temporary_sibling, write_json_atomic
from haustra.core.frame_times import constant_rate
from haustra.core.images import encode_png
from haustra.view.state import in_one_line

RESERVE_NAME, RESERVE_BYTES = "reserve", 65536
"""Room for the files that are written last, so that a full disk cannot keep them out."""


class Recording:
    """A run folder that is being written: images, predicted labels, overlays, a manifest.

    Args:
        stated_hz: Frame rate that the source states; None for a live source.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, root: Path, *, stated_hz: float | None, caption: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now))
        run_id = f"view_{stamp}_{int(now * 1000) % 1000:03d}"
        self.folder = root / f"run_{run_id}"  # the run folder; it appears when the recording ends
        self._stated_hz, self._times_s = stated_hz, list[float]()
        self._lock = threading.Lock()
        self._line: str | None = None
        self._building = temporary_sibling(self.folder)
        self._building.mkdir(parents=True)
        try:
            (self._building / RESERVE_NAME).write_bytes(os.urandom(RESERVE_BYTES))
            self._writer = RunWriter(
                folder=self._building,
                manifest=RunManifest(
                    run_id=run_id,
                    source="inference",
                    group_id=run_id,
                    started_at_unix=now,
                    detector=caption,
                ),
                label_source="model",
            )
        except BaseException:
            shutil.rmtree(self._building, ignore_errors=True)
            raise

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return self._writer.num_frames

    def add(self, frame: SourceFrame, shown: Detections) -> None:
        """Write a frame with the boxes that it shows, unless the recording is finished.

        Raises:
            OSError: It cannot be written; nothing of it is left.
        """
        with self._lock:
            if self._line is not None:
                return
            age_s = time.monotonic() - frame.captured_at
            overlay = self._building / "overlays" / f"frame_{self.num_frames:05d}.png"
            try:
                overlay.write_bytes(encode_png(draw_boxes(frame.image_rgb, shown)))
                self._writer.add_frame(
                    encode_png(frame.image_rgb),
                    suffix=".png",
                    image_size_wh=shown.image_size_wh,
                    labels=[
                        PolypTruth(bbox_px=tuple(box.tolist()), score=float(score))
                        for box, score in zip(shown.boxes_px, shown.scores, strict=True)
                    ],
                    sim_time=frame.seconds,
                    unix_time=time.time() - age_s if self._stated_hz is None else None,
                )
            except BaseException:
                overlay.unlink(missing_ok=True)
                raise
            self._times_s.append(frame.seconds)

    def finish(self, **files: Any) -> str:
        """Complete the folder, and return one line for the user; again, only that line.

        Args:
            **files: JSON values to write beside the manifest, by name without suffix.
        """
        with self._lock:
            if self._line is None:
                try:
                    self._line = self._finish(files)
                except OSError as error:
                    self._line = (
                        f"{self.num_frames} recorded frames are in {self._building}; "
                        f"{self.folder} cannot be completed: {in_one_line(error)}"
                    )
            return self._line

    def _finish(self, files: dict[str, Any]) -> str:
        if not self.num_frames:
            shutil.rmtree(self._building, ignore_errors=True)
            return "no frame was recorded"
        (self._building / RESERVE_NAME).unlink()  # its folder is missing if somebody removed it
        self._writer.manifest_fields["frame_rate_hz"] = self._frame_rate()
        self._writer.write_manifest()
        for name, value in files.items():
            write_json_atomic(self._building / f"{name}.json", value=value)
        move_folder(self._building, target=self.folder)
        return f"recorded {self.num_frames} frames into {self.folder}"

    def _frame_rate(self) -> float | None:
        """Return the rate of the recorded frames; None where they are not in time order."""
        times = np.array(self._times_s) - self._times_s[0]
        if len(times) == 1 or np.diff(times).min() <= 0:
            return self._stated_hz if len(times) == 1 else None
        mean_hz = float((len(times) - 1) / times[-1])
        return constant_rate(times.tolist(), stated_hz=self._stated_hz or mean_hz) or mean_hz
