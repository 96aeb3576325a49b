"""A frame on which matter is painted, and the random fields that matter is made of.

S is the side of the square picture in pixels; lengths are shares of it unless a name says
otherwise. Linear light is RGB: 0 is black, and 1 and above is nearly white.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.events import Event

FloatImage = NDArray[np.float32]
ByteImage = NDArray[np.uint8]
Window = tuple[slice, slice]  # rows and columns of the picture

WHOLE: Window = (slice(None), slice(None))


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """A frame that is being painted; `light` and `through` change in place."""

    light: FloatImage  # [S,S,3] linear
    through: FloatImage  # [S,S] share of the wall's light that opaque matter lets through
    lamp: FloatImage  # [S,S] light that a white wall would send back, smoothed
    depth_mm: FloatImage  # [S,S]; 0 where nothing is seen

    @property
    def size_px(self) -> int:
        """S."""
        return len(self.light)

    def cover(
        self, color: FloatImage, alpha: FloatImage, *, window: Window = WHOLE, opaque: bool
    ) -> None:
        """Paint linear `color` [h,w,3] with `alpha` [h,w] over a window."""
        self.light[window] = cv2.blendLinear(color, self.light[window], alpha, 1 - alpha)
        if opaque:
            self.through[window] *= 1 - alpha

    def add(self, light: FloatImage, *, window: Window = WHOLE) -> None:
        """Add white light [h,w] to a window."""
        self.light[window] += cv2.merge([light, light, light])


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Movement of matter since the middle of its episode."""

    zoom: float
    shift_xy: tuple[float, float]


def draw_drift(rng: np.random.Generator, *, event: Event, reach: float) -> Drift:
    """Draw how matter moves as the camera passes it; over the episode it shifts by `reach`."""
    angle, growth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    away = reach * (event.progress - 0.5)
    return Drift(
        zoom=float(np.exp(growth * (event.progress - 0.5))),
        shift_xy=(float(away * np.cos(angle)), float(away * np.sin(angle))),
    )


def cloud(
    rng: np.random.Generator,
    size_px: int,
    *,
    cells: int,
    octaves: int,
    drift: Drift,
    roughness: float = 0.6,
    angle: float = 0.0,
    stretch: float = 1.0,
) -> FloatImage:
    """Return smooth noise [S,S] of mean 0 and standard deviation about 1.

    Args:
        rng: Source of the noise, which depends on neither size nor drift.
        size_px: S.
        cells: Number of the largest blobs in a row.
        octaves: Number of layers, each half as coarse as the one before.
        drift: Movement of the noise.
        roughness: Deviation of each octave over that of the one before.
        angle: Direction of `stretch` in radians.
        stretch: Length of the blobs over their width.
    """
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    for octave in range(1, octaves):
        side = 2 * len(grid)
        finer = rng.standard_normal((side, side), dtype=np.float32)
        coarse = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        grid = np.asarray(coarse + np.float32(roughness**octave) * finer, dtype=np.float32)
    grid = (grid - grid.mean()) / grid.std()
    # The picture shows seven tenths of the grid, so that drift brings in more of it.
    per_px = 0.7 * len(grid) / size_px / drift.zoom
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    linear = per_px * (np.outer(along, along) / stretch + np.outer(across, across))
    center = (size_px - 1) / 2 + size_px * np.asarray(drift.shift_xy)
    offset = (len(grid) - 1) / 2 - linear @ center
    return cv2.warpAffine(  # type: ignore[return-value]
        grid,
        np.column_stack([linear, offset]),
        (size_px, size_px),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def relief(field: FloatImage) -> FloatImage:
    """Return the rise of a field [S,S] toward the lower right, per hundredth of the side."""
    kernel = np.array([[-1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=np.float32)
    return cv2.filter2D(field, -1, kernel * (len(field) / 283))  # type: ignore[return-value]


def ramp(field: FloatImage, low: float, high: float) -> FloatImage:
    """Return 0 below `low`, 1 above `high` and a straight line between them."""
    risen = (field - np.float32(low)) * np.float32(1 / (high - low))
    return np.asarray(np.clip(risen, 0, 1), dtype=np.float32)


def tinted(light: NDArray[np.floating], *, albedo: NDArray[np.floating]) -> FloatImage:
    """Return `light` [h,w] times a color [3]."""
    return cv2.merge([light * np.float32(value) for value in albedo])  # type: ignore[return-value]


def window_around(points_px: NDArray[np.floating], *, margin_px: float, size_px: int) -> Window:
    """Return the part of the picture, perhaps empty, within a margin around `points_px` [N,2]."""
    low = np.clip(np.floor(points_px.min(axis=0) - margin_px), 0, size_px).astype(int)
    high = np.clip(np.ceil(points_px.max(axis=0) + margin_px), 0, size_px).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def in_sixteenths(point_xy: NDArray[np.float64]) -> tuple[int, int]:
    """Return a point in sixteenths of a pixel from the first pixel's center, as OpenCV draws it."""
    return round(float(point_xy[0] - 0.5) * 16), round(float(point_xy[1] - 0.5) * 16)
