"""What `haustra view` can be told. Imports nothing heavy: flags and help are built from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haustra.core.backend_names import BackendFlag
from haustra.core.errors import HaustraError
from haustra.core.operating_point import check_flags
from haustra.core.ranges import check_whole_number

DEFAULT_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Settings of the live view.

    Raises:
        HaustraError: a value is out of its range; the message names the flag.
    """

    detector_weights: Path | None = None
    """A checkpoint of `haustra train` or a model of `haustra export`; loaded again when it changes.
    Without one a plain heuristic draws the boxes and says so."""
    compare: Path | None = None
    """Weights of a second detector, shown beside the first."""
    model: Literal["tiny", "big"] | None = None
    """Refuse weights of another kind."""
    backend: BackendFlag | None = None
    """What computes: ndarray (the CPU), cuda, mps, wgpu, or auto, the best there is;
    HAUSTRA_BACKEND's value by default, else ndarray."""
    source: str = "simulator"
    """simulator or simulator:SEED, a run folder, a folder of images, a video file, camera:0, or a
    URL that OpenCV opens."""
    infer_obj_thresh: float | None = None
    """Show boxes of at least this score; the weights' operating point (0.3) by default."""
    infer_iou_thresh: float | None = None
    """Of two boxes that overlap more than this show the better; 0.5 by default, 1 shows both."""
    infer_hold_off: int | None = None
    """Frames that an activation is held back; the operating point's by default, 0 none."""
    size: int = 384
    """Width and height of the simulator's pictures in pixels."""
    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback the page asks for the token that is printed."""
    port: int = DEFAULT_PORT
    """Port to listen on."""
    training: Path | None = None
    """Run folder of a training to show at /training; the one beside the weights by default."""
    open_browser: bool = True
    """Open the page in the browser, where there is a screen."""
    record: bool = False
    """Record from the first frame on, as R does on the page."""
    headless: bool = False
    """Show no page: run over the source and write a run folder."""
    max_frames: int | None = None
    """Frames of a headless run; all by default, and required where a source has no end."""
    output_root: Path | None = None
    """Folder for the run folders of headless runs and recordings; recordings/ by default."""

    def __post_init__(self) -> None:
        check_flags(
            objectness=self.infer_obj_thresh,
            iou=self.infer_iou_thresh,
            hold_off_frames=self.infer_hold_off,
        )
        check_whole_number("size", self.size, low=64, high=4096)
        check_whole_number("port", self.port, low=1, high=65535)
        if self.max_frames is not None:
            check_whole_number("max_frames", self.max_frames, low=1)
            if not self.headless:
                raise HaustraError(
                    f"--max-frames {self.max_frames}: expected --headless with it; the page runs "
                    "until Ctrl-C"
                )
        if self.headless and self.output_root is None:
            raise HaustraError("--headless: expected --output-root, the folder that gets the run")
        if self.headless and self.record:
            raise HaustraError(
                "--record: a headless run writes its run folder anyway; leave it out"
            )
        if self.headless and self.compare is not None:
            raise HaustraError(
                f"--compare {self.compare}: a headless run has one detector; run it once for each"
            )
        if (self.model is not None or self.compare is not None) and self.detector_weights is None:
            flag = f"--model {self.model}" if self.model else f"--compare {self.compare}"
            raise HaustraError(f"{flag}: expected --detector-weights with it")
