"""The endoscope's camera: a wide-angle lens behind a mask, and its pose."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.noise import FloatArray

FISHEYE_FOV_DEG = (120.0, 170.0)
PINHOLE_FOV_DEG = (105.0, 120.0)

Lens = Literal["fisheye", "pinhole"]
ApertureShape = Literal["full", "octagon", "circle"]


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """The visible part of the square image; the rest is black, as on real endoscopes."""

    shape: ApertureShape = "full"
    reach: float = 1.0  # radius of the circle, or largest |x| + |y|, in half sizes of the image

    def contains(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return whether `points` [...,2] in -1..1, right and down, are inside, [...]."""
        if self.shape == "full":
            return np.ones(points.shape[:-1], dtype=bool)
        if self.shape == "octagon":
            return np.asarray(np.abs(points).sum(axis=-1) <= self.reach)
        return np.asarray(np.square(points).sum(axis=-1) <= self.reach**2)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A lens with square images.

    "fisheye" is equidistant: r = f * theta, with r in pixels from the center and theta the angle
    from the optical axis (Kannala and Brandt 2006, k1 alone). "pinhole" is r = f * tan(theta).
    """

    size_px: int
    fov_deg: float  # angle of view from the left edge to the right edge
    lens: Lens = "pinhole"
    aperture: Aperture = Aperture()

    @property
    def focal_px(self) -> float:
        """Focal length in pixels; for a fisheye, pixels per radian."""
        half = np.radians(self.fov_deg) / 2
        return float(self.size_px / 2 / (half if self.lens == "fisheye" else np.tan(half)))

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the pixels within the aperture, [size,size]."""
        across = (np.arange(self.size_px) + 0.5) / (self.size_px / 2) - 1
        return self.aperture.contains(np.stack(np.meshgrid(across, across), axis=-1))

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Unit rays through the centers of all pixels, [size*size,3]: right, down, ahead."""
        across = (np.arange(self.size_px) + 0.5 - self.size_px / 2) / self.focal_px
        right, down = np.meshgrid(across, across)
        radius = np.hypot(right, down)
        angle = radius if self.lens == "fisheye" else np.arctan(radius)
        sideways = np.sin(angle) / np.maximum(radius, 1e-12)
        rays = np.stack([right * sideways, down * sideways, np.cos(angle)], axis=-1)
        return rays.reshape(-1, 3).astype(np.float32)

    @cached_property
    def inside_directions(self) -> NDArray[np.float32]:
        """The rays of the pixels within the aperture, [N,3]."""
        return self.directions[self.mask.ravel()]

    def project(self, points_mm: FloatArray) -> FloatArray:
        """Return the pixel positions [N,2] of `points_mm` [N,3] (right, down, ahead).

        A point behind a pinhole is NaN.
        """
        right, down, ahead = points_mm.T
        sideways = np.hypot(right, down)
        angle = np.arctan2(sideways, ahead)
        with np.errstate(divide="ignore", invalid="ignore"):
            seen = np.where(ahead > 0, sideways / ahead, np.nan)
            radius = angle if self.lens == "fisheye" else seen
            scale = np.where(sideways > 0, radius / sideways, 0.0) * self.focal_px
        scale = np.where(np.isnan(radius), np.nan, scale)
        return np.stack([right * scale, down * scale], axis=1) + self.size_px / 2

    def as_json(self) -> dict[str, Any]:
        """Return the calibration; pixel i covers [i, i + 1), so the center is at half the size."""
        return {
            "model": "fisheye_equidistant" if self.lens == "fisheye" else "pinhole",
            "fov_deg": self.fov_deg,
            "fx_px": self.focal_px,
            "fy_px": self.focal_px,
            "cx_px": self.size_px / 2,
            "cy_px": self.size_px / 2,
            "distortion": [0.0, 0.0, 0.0, 0.0],
            "aperture": {"shape": self.aperture.shape, "reach": self.aperture.reach},
        }


def draw_camera(rng: np.random.Generator, *, size_px: int, with_fisheye: bool = True) -> Camera:
    """Draw the lens and the mask of a run; without a fisheye, draw a pinhole without a mask."""
    if not with_fisheye:
        return Camera(size_px=size_px, fov_deg=rng.uniform(*PINHOLE_FOV_DEG))
    shape: ApertureShape = ("full", "octagon", "circle")[rng.choice(3, p=[0.3, 0.5, 0.2])]
    reach = {"full": 1.0, "octagon": rng.uniform(1.35, 1.7), "circle": rng.uniform(1.05, 1.3)}
    return Camera(
        size_px=size_px,
        fov_deg=rng.uniform(*FISHEYE_FOV_DEG),
        lens="fisheye",
        aperture=Aperture(shape=shape, reach=float(reach[shape])),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Position and orientation of the camera."""

    position_mm: FloatArray  # [3]
    axes: FloatArray  # [3,3] rows: the unit vectors right, down and ahead in the world

    def to_world(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `directions` [N,3] from right, down, ahead in the world."""
        # Not `@`: a threaded matrix product may differ in its last bit, and is slower here.
        turn = np.ascontiguousarray(self.axes.T, dtype=np.float32)
        turned = cv2.transform(directions.reshape(1, -1, 3), turn)
        return np.asarray(turned, dtype=np.float32).reshape(-1, 3)

    def to_camera(self, points_mm: FloatArray) -> FloatArray:
        """Return `points_mm` [N,3] of the world as right, down, ahead in millimeters."""
        return np.asarray((points_mm - self.position_mm) @ self.axes.T)
