"""Negatives: images without a polyp, which take the place of a share of each batch's samples.

They are windows of the training images that no labeled box comes near, enlarged to a whole image;
frames of the warehouse that show no polyp; and clean frames of the simulator. All are augmented as
the other samples are, without pasted polyps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.images import read_image_rgb
from haustra.core.letterbox import plan_letterbox
from haustra.training.augment import Boxes, Image, ReadSample
from haustra.warehouse.dataset import Split

WINDOW_GRID = 24  # corners of windows lie on a grid of this many cells a side
LEAST_WINDOW_CELLS = 8
"""Smallest side of a window, in cells of the grid: a third of the image's."""
BOX_MARGIN = 0.15
"""Free margin around a labeled box, as a share of its longer side: a crop with the border of a
polyp would be a wrong negative."""
SIMULATED_SHARE = 0.5  # share of the negatives that the simulator makes
TRIES = 8  # other images to look at where an image has no free window
CLEAN_SIDE_PX = 256  # side of the stored clean frames
NO_BOXES: Boxes = np.zeros((0, 4))

Images = NDArray[np.uint8]  # [K,H,W,3]


@lru_cache(maxsize=1)
def _all_windows() -> NDArray[np.float64]:
    """Return every square window of the grid [K,4], normalized to the image."""
    grid, found = WINDOW_GRID, []
    for side in range(LEAST_WINDOW_CELLS, grid + 1):
        starts = range(grid - side + 1)
        found += [(x, y, x + side, y + side) for y in starts for x in starts]
    return np.array(found, dtype=np.float64) / grid


def free_windows(boxes_xyxy: Boxes) -> NDArray[np.float64]:
    """Return the windows of the grid [K,4] that keep their distance to boxes [N,4], normalized."""
    windows = _all_windows()
    if not len(boxes_xyxy):
        return windows
    margin = BOX_MARGIN * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1, keepdims=True)
    low, high = boxes_xyxy[:, :2] - margin, boxes_xyxy[:, 2:] + margin
    touches = ((windows[:, None, :2] < high) & (windows[:, None, 2:] > low)).all(axis=2)
    free: NDArray[np.float64] = windows[~touches.any(axis=1)]
    return free


def draw_window(boxes_xyxy: Boxes, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Draw a free window, normalized: first its side, then its place; None where there is none."""
    windows = free_windows(boxes_xyxy)
    if not len(windows):
        return None
    sides = np.rint((windows[:, 2] - windows[:, 0]) * WINDOW_GRID)
    chosen = np.flatnonzero(sides == rng.choice(np.unique(sides)))
    return np.asarray(windows[rng.choice(chosen)])


def enlarge(image: Image, window: NDArray[np.float64]) -> Image:
    """Return a normalized window of an image, in the size of the image."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.rint(window * (width, height, width, height)).astype(int).tolist()
    part = image[y0:y1, x0:x1]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, eq=False)
class Negatives:
    """Where the negatives of a training come from."""

    share: float  # share of the images of a batch, 0..1
    simulated: Images  # clean frames of the simulator
    clean: NDArray[np.int64]  # numbers of the samples that show no polyp
    truncated: frozenset[int] = frozenset()
    """Numbers of the samples with more polyps than stored boxes: their windows may show one."""

    def takes(self, position: int) -> bool:
        """Return whether a negative takes the place of the sample at a position of the order."""
        return math.floor((position + 1) * self.share) > math.floor(position * self.share)

    def reader(
        self, read: ReadSample, *, partners: NDArray[np.int64], rng: np.random.Generator
    ) -> ReadSample:
        """Return a function that reads a negative for each sample.

        Args:
            read: Reads a sample, with its boxes in pixels.
            partners: Numbers of the samples that may be read.
            rng: The only source of randomness.
        """
        clean = np.intersect1d(self.clean, partners) if len(self.clean) else self.clean

        def simulated() -> tuple[Image, Boxes]:
            return self.simulated[rng.integers(len(self.simulated))], NO_BOXES

        def read_negative(index: int) -> tuple[Image, Boxes]:
            if len(self.simulated) and rng.random() < SIMULATED_SHARE:
                return simulated()
            if len(clean) and rng.random() < 0.5:
                return read(int(rng.choice(clean)))[0], NO_BOXES
            for number in (index, *rng.choice(partners, size=TRIES).tolist()):
                if number in self.truncated:
                    continue
                image, boxes = read(number)
                height, width = image.shape[:2]
                window = draw_window(boxes / (width, height, width, height), rng)
                if window is not None:
                    return enlarge(image, window), NO_BOXES
            return simulated() if len(self.simulated) else read(index)

        return read_negative


def clean_frames(name: Literal["train", "held_out"], *, size_wh: tuple[int, int]) -> Images:
    """Return simulated frames without a polyp, as a warehouse of this image size would hold them.

    `docs/make_clean_frames.py` made them; the two sets have no colon in common.
    """
    sheet = read_image_rgb(Path(__file__).parent / "clean_frames" / f"{name}.jpg")
    rows, columns = sheet.shape[0] // CLEAN_SIDE_PX, sheet.shape[1] // CLEAN_SIDE_PX
    split = sheet.reshape(rows, CLEAN_SIDE_PX, columns, CLEAN_SIDE_PX, 3).swapaxes(1, 2)
    frames = split.reshape(-1, CLEAN_SIDE_PX, CLEAN_SIDE_PX, 3)
    fit = plan_letterbox((CLEAN_SIDE_PX,) * 2, target_size_wh=size_wh, mode="letterbox")
    return np.stack([fit.apply(frame) for frame in frames])


def truncated_samples(split: Split) -> frozenset[int]:
    """Return the numbers of the samples that lost boxes to the warehouse's `max_boxes`."""
    before, after = (split.table.column(f"boxes_{when}").to_numpy() for when in ("before", "after"))
    return frozenset(np.flatnonzero(before > after).tolist())


def find_negatives(split: Split, *, share: float) -> Negatives | None:
    """Return where the negatives of a training on a split come from; None for a share of 0."""
    if not share:
        return None
    num_labels = split.table.column("boxes_before").to_numpy()
    return Negatives(
        share=share,
        simulated=clean_frames("train", size_wh=split.manifest.target_size_wh),
        clean=np.flatnonzero(num_labels == 0),
        truncated=truncated_samples(split),
    )
