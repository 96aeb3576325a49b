"""Settings of `haustra view`. Imports nothing heavy: flags and help are built from it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from haustra.core.checked import CountFromOne, OutputFolder, SidePx, Whole
from haustra.core.errors import HaustraError, option
from haustra.inference.config import DetectorSettings
from haustra.view.addresses import Address

DEFAULT_PORT = 8765
_ROOT_PATH = re.compile(r"(?!/(?:feed|static|status|training)(?:/|$))(?:/\w[\w.~-]*)*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ViewConfig(DetectorSettings):
    """Settings of the live view."""

    compare: Path | None = None
    """Weights of a second detector to show beside the first. Both are loaded again when their file
    changes."""
    source: str = "simulator"
    """Source of the frames: simulator or simulator:SEED, a run folder, a folder of images, a video
    file, camera:0, or a URL that OpenCV opens."""
    size: SidePx = 384
    """Width and height of the simulator's frames in pixels."""
    host: str = "127.0.0.1"
    """Address to listen on. On any address but loopback, the page requires the token that is
    printed."""
    port: Annotated[Whole, Field(ge=1, le=65535)] = DEFAULT_PORT
    """Port to listen on."""
    allow_host: tuple[str, ...] = ()
    """Address under which a proxy serves the page, as NAME, NAME:PORT or https://NAME; can be
    repeated. With one, the page requires the token that is printed."""
    root_path: str = ""
    """Path under which a proxy serves the page, such as /haustra, whether the proxy removes it or
    not. With one, the page requires the token that is printed."""
    training: Path | None = None
    """Run folder of a training to show at /training; by default the one beside the weights."""
    open_browser: bool = True
    """Open the page in the browser, if there is a screen."""
    record: bool = False
    """Record from the first frame on, like the key R on the page."""
    headless: bool = False
    """Run over the source without a page, and write a run folder."""
    max_frames: CountFromOne | None = None
    """Number of frames of a headless run; by default all. Required for a live source."""
    output_root: OutputFolder | None = None
    """Folder that receives headless runs and recordings; recordings/ by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_frames is not None and not self.headless:
            raise HaustraError(
                f"{option('max_frames', self.max_frames)}: expected {option('headless', True)} "
                "with it; the page runs until Ctrl-C"
            )
        for name in self.allow_host:
            if Address.parse(name) is None:
                raise HaustraError(
                    f"{option('allow_host', name)}: expected NAME, NAME:PORT or https://NAME"
                )
        root_path = self.root_path.rstrip("/")
        if not _ROOT_PATH.fullmatch(root_path):
            raise HaustraError(
                f"{option('root_path', self.root_path)}: expected a path such as /haustra that "
                "does not begin with /feed, /static, /status or /training"
            )
        object.__setattr__(self, "root_path", root_path)
        if self.headless:
            self._check_headless()
        if self.compare is not None and self.detector_weights is None:
            raise HaustraError(
                f"{option('compare', self.compare)}: expected {option('detector_weights')} with it"
            )

    def _check_headless(self) -> None:
        if self.output_root is None:
            raise HaustraError(
                f"{option('headless', True)}: expected {option('output_root')}, the folder that "
                "receives the run folder"
            )
        if self.record:
            raise HaustraError(
                f"{option('record', True)}: a headless run is always recorded; leave it out"
            )
        if self.compare is not None:
            raise HaustraError(
                f"{option('compare', self.compare)}: a headless run has one detector; run it once "
                "for each"
            )
