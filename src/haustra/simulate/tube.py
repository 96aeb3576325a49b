"""The colon wall: a bent tube with haustral folds, closed at both ends, as a mesh in millimetres.

Only the wall's shape is made here; polyps, colours and the camera are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.simulate.noise import FloatArray, smooth_wave
from haustra.simulate.rays import grid_faces, normalised, vertex_normals

STEP_MM = 0.6
NUM_COLUMNS = 208
"""Vertices around the tube: about one per `STEP_MM` at the middle radius."""
MIN_RADIUS_MM = 15.0
MAX_RADIUS_MM = 28.0
MAX_FOLD_SHARE = 0.5
"""Part of the radius that a fold may fill, so that the middle of the lumen stays free."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tube:
    """The wall as a grid of S rows along the tube and A + 1 columns around it.

    The last column repeats the first, so that textures can be laid over the grid without a seam.
    """

    centers_mm: FloatArray
    """[S,3] the centreline, `STEP_MM` apart."""
    tangents: FloatArray
    """[S,3] unit vectors along the centreline."""
    sides: FloatArray
    """[S,3] unit vectors across the centreline that do not twist about it."""
    vertices_mm: FloatArray
    """[S*(A+1),3], row by row."""
    normals: FloatArray
    """[S*(A+1),3] unit vectors into the lumen."""
    faces: NDArray[np.int32]
    """[F,3], right-handed normals into the lumen."""

    @property
    def length_mm(self) -> float:
        """Length of the centreline."""
        return STEP_MM * (len(self.centers_mm) - 1)


def build_tube(rng: np.random.Generator) -> Tube:
    """Make a random colon: its bends, its width and its folds."""
    num_rows = int(rng.uniform(240, 340) / STEP_MM)
    along_mm = np.arange(num_rows, dtype=np.float64) * STEP_MM
    width = smooth_wave(along_mm, wavelengths=(50, 160), rng=rng)
    base_mm = np.clip(rng.uniform(17, 25) * (1 + 0.2 * width), MIN_RADIUS_MM, MAX_RADIUS_MM)
    while True:
        centers, tangents, sides, ups = _centreline(along_mm, rng=rng)
        if not _touches_itself(centers):
            break
    angles = np.linspace(0, 2 * np.pi, NUM_COLUMNS + 1)
    radius = _wall_radius_mm(along_mm, base_mm=base_mm, angles=angles, rng=rng)
    outward = np.cos(angles)[:, None] * sides[:, None] + np.sin(angles)[:, None] * ups[:, None]
    grid = centers[:, None] + radius[..., None] * outward
    grid[:, -1] = grid[:, 0]
    vertices = grid.reshape(-1, 3)
    faces = grid_faces(num_rows, num_columns=NUM_COLUMNS + 1, wraps=False)[:, ::-1]
    normals = vertex_normals(vertices, faces=faces).reshape(grid.shape)
    normals[:, [0, -1]] = normals[:, [0]] + normals[:, [-1]]
    return Tube(
        centers_mm=centers,
        tangents=tangents,
        sides=sides,
        vertices_mm=vertices,
        normals=normalised(normals).reshape(-1, 3),
        faces=np.ascontiguousarray(faces),
    )


def _centreline(
    along_mm: FloatArray, *, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return centres, tangents and two side vectors, each [S,3].

    The side vectors do not twist about the tangent: T' = a U + b V, U' = -a T, V' = -b T
    (Bishop 1975, "There is more than one way to frame a curve").
    """
    curvature = np.zeros((len(along_mm), 2))
    for _ in range(int(rng.integers(4, 8))):
        angle, azimuth = rng.uniform(np.radians(40), np.radians(120)), rng.uniform(0, 2 * np.pi)
        spread_mm, middle_mm = rng.uniform(14, 30), rng.uniform(0, along_mm[-1])
        bump = np.exp(-0.5 * ((along_mm - middle_mm) / spread_mm) ** 2)
        peak = angle / (spread_mm * np.sqrt(2 * np.pi))
        curvature += peak * bump[:, None] * [np.cos(azimuth), np.sin(azimuth)]
    # A bend tighter than the tube is wide would fold the wall over itself.
    limit = 1 / (1.6 * MAX_RADIUS_MM)
    curvature /= np.maximum(np.linalg.norm(curvature, axis=1, keepdims=True) / limit, 1)

    frame = np.eye(3)[[2, 0, 1]]
    frames = np.empty((len(along_mm), 3, 3))
    for row, (a, b) in enumerate(curvature * STEP_MM):
        frames[row] = frame
        tangent, side, up = frame
        tangent = tangent + a * side + b * up
        tangent /= np.linalg.norm(tangent)
        side = side - (side @ tangent) * tangent
        side /= np.linalg.norm(side)
        frame = np.stack([tangent, side, np.cross(tangent, side)])
    steps = 0.5 * STEP_MM * (frames[1:, 0] + frames[:-1, 0])
    centers = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return centers, frames[:, 0], frames[:, 1], frames[:, 2]


def _touches_itself(centers_mm: FloatArray) -> bool:
    coarse = centers_mm[::8]
    apart = np.linalg.norm(coarse[:, None] - coarse[None], axis=-1)
    index = np.arange(len(coarse))
    far_along = np.abs(index[:, None] - index) * 8 * STEP_MM > np.pi * MAX_RADIUS_MM
    return bool((apart[far_along] < 2 * MAX_RADIUS_MM + 4).any())


def _wall_radius_mm(
    along_mm: FloatArray, *, base_mm: FloatArray, angles: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Return the distance of the wall from the centreline, [S,A+1].

    Three taeniae pull the wall into a rounded triangle and cut each fold into up to three
    semilunar ridges.
    """
    taenia = rng.uniform(0, 2 * np.pi)
    fold_share = np.zeros((len(along_mm), len(angles)))
    spacing_mm = rng.uniform(15, 32)
    strength = rng.uniform(0.75, 1.0)
    position_mm = rng.uniform(5, 20)
    while position_mm < along_mm[-1]:
        for sector in range(3):
            if rng.random() < 0.15:
                continue
            around = angles - taenia - (sector * 2 + rng.uniform(-0.3, 0.3)) * np.pi / 3
            around = (around + np.pi) % (2 * np.pi) - np.pi
            half_width = rng.uniform(1.0, 1.5)
            lobe = np.cos(np.clip(around / half_width, -1, 1) * np.pi / 2) ** 1.5
            crest_mm = position_mm + rng.uniform(-4, 4) + rng.uniform(-2.5, 2.5) * around
            ridge = np.exp(-(((along_mm[:, None] - crest_mm) / rng.uniform(2.0, 3.6)) ** 2))
            height = strength * MAX_FOLD_SHARE * rng.uniform(0.5, 1.0)
            fold_share = np.maximum(fold_share, height * lobe * ridge)
        position_mm += spacing_mm * rng.uniform(0.7, 1.3)
    triangle = 1 + 0.04 * np.cos(3 * (angles - taenia))
    lumps = np.zeros_like(fold_share)
    for turns in (2, 3, 5):
        wave = smooth_wave(along_mm, wavelengths=(18, 60), rng=rng)
        lumps += 0.02 * wave[:, None] * np.cos(turns * angles + rng.uniform(0, 2 * np.pi))
    from_end = np.minimum(along_mm, along_mm[::-1]) / MIN_RADIUS_MM
    closing = np.sqrt(1 - (1 - np.clip(from_end, 0, 1)) ** 2)
    radius = base_mm[:, None] * (triangle + lumps) * (1 - fold_share)
    return np.asarray(radius * closing[:, None])
