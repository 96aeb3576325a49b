"""The shape of the colon wall: a bent tube with haustral folds, closed at both ends, as a mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haustra.simulator.noise import FloatArray, smooth_wave
from haustra.simulator.rays import grid_faces, normalized, vertex_normals

STEP_MM = 0.7
NUM_COLUMNS = 184  # vertices around the tube: about one per `STEP_MM` at the middle radius
MIN_RADIUS_MM = 15.0
MAX_RADIUS_MM = 30.0
MAX_FOLD_SHARE = 0.55
"""Largest height of a fold as a share of the radius, so that the middle of the lumen is free."""
BLEND_MM = 12.0  # length of the transition between two sections

PX_PER_MM = 6.0  # texels per millimeter of wall
TILE_PX = 768  # side of the texture tiles; a tile is stretched to one whole turn around the tube


class Section(NamedTuple):
    """The shape of one part of the colon; each range is drawn from once per colon.

    Lengths are a third to a half of the real ones, so that a fly-through shows less of the same.
    """

    name: str
    length_mm: tuple[float, float]
    radius_mm: tuple[float, float]
    fold_gap_mm: tuple[float, float]  # from one ring of folds to the next
    fold_share: tuple[float, float]  # height of folds as a share of the radius
    fold_width_mm: tuple[float, float]
    missing_folds: float  # chance that one of a ring's three ridges is missing
    triangle: float  # depth of the triangle between the taeniae, as a share of the radius
    max_bend_deg: float


# fmt: off
SECTIONS = (  # Houston's valves in the rectum stand alone, so most of its folds are missing
    Section("rectum",     (60, 90),  (20, 27), (24, 34), (0.30, 0.50), (2.6, 3.8), 0.60, 0.00, 60),
    Section("sigmoid",    (90, 140), (16, 20), (14, 22), (0.28, 0.45), (2.4, 4.0), 0.25, 0.01, 130),
    Section("descending", (70, 110), (17, 22), (20, 34), (0.15, 0.35), (2.2, 3.4), 0.30, 0.03, 50),
    Section("transverse", (90, 140), (20, 26), (18, 28), (0.30, 0.50), (1.8, 2.8), 0.10, 0.11, 90),
    Section("ascending",  (60, 90),  (22, 28), (18, 30), (0.35, 0.55), (2.0, 3.2), 0.12, 0.07, 60),
    Section("cecum",      (45, 60),  (25, 30), (20, 30), (0.20, 0.40), (2.6, 4.2), 0.40, 0.06, 20),
)
# fmt: on
"""From the anus inward; the columns are the fields of `Section`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tube:
    """The wall and the line through its center."""

    centers_mm: FloatArray  # [S,3] the centerline, `STEP_MM` apart
    tangents: FloatArray  # [S,3] unit vectors along the centerline
    sides: FloatArray  # [S,3] unit vectors across the centerline that do not twist about it
    vertices_mm: FloatArray  # [V,3]
    normals: FloatArray  # [V,3] unit vectors into the lumen
    texture_px: FloatArray
    """[V,2] position of each vertex on the texture tiles, in texels; tiles repeat."""
    station: NDArray[np.int32]  # [V] the row of the centerline that each vertex belongs to
    faces: NDArray[np.int32]  # [F,3], right-handed normals into the lumen

    @property
    def length_mm(self) -> float:
        """Length of the centerline."""
        return STEP_MM * (len(self.centers_mm) - 1)

    @property
    def along_mm(self) -> FloatArray:
        """Position of each row along the centerline, [S]."""
        return np.arange(len(self.centers_mm), dtype=np.float64) * STEP_MM

    def nearest_station(self, position_mm: FloatArray) -> int:
        """Return the row of the centerline that is nearest to a position [3]."""
        return int(np.linalg.norm(self.centers_mm - position_mm, axis=1).argmin())


def build_tube(
    rng: np.random.Generator, *, sections: Sequence[Section] = SECTIONS, with_folds: bool = True
) -> Tube:
    """Draw a random colon of some sections; without folds the wall is smooth."""
    lengths_mm = [rng.uniform(*section.length_mm) for section in sections]
    ends_mm = np.cumsum(lengths_mm)
    num_rows = int(ends_mm[-1] / STEP_MM)
    along_mm = np.arange(num_rows, dtype=np.float64) * STEP_MM
    # [S,sections]: rows sum to 1 and change smoothly from one section to the next.
    past = 1 / (1 + np.exp(-(along_mm[:, None] - ends_mm[None, :-1]) / (BLEND_MM / 4)))
    past = np.column_stack([np.ones(num_rows), past, np.zeros(num_rows)])
    share = past[:, :-1] - past[:, 1:]

    wide = share @ [rng.uniform(*section.radius_mm) for section in sections]
    width = smooth_wave(along_mm, wavelengths=(50, 160), rng=rng)
    base_mm = np.clip(wide * (1 + 0.12 * width), MIN_RADIUS_MM, MAX_RADIUS_MM)
    while True:
        centers, tangents, sides, ups = _centerline(
            along_mm, sections=sections, ends_mm=ends_mm, rng=rng
        )
        if not _touches_itself(centers):
            break
    angles = np.linspace(0, 2 * np.pi, NUM_COLUMNS + 1)
    around = angles - rng.uniform(0, 2 * np.pi)  # from the first taenia
    fold_share = np.zeros((num_rows, NUM_COLUMNS + 1))
    if with_folds:
        fold_share = _folds(along_mm, sections=sections, ends_mm=ends_mm, angles=around, rng=rng)
    triangle = share @ [section.triangle for section in sections]
    radius = base_mm[:, None] * (1 + triangle[:, None] * np.cos(3 * around))
    lumps = np.zeros(radius.shape)
    for turns in (2, 3, 5, 9):
        wave = smooth_wave(along_mm, wavelengths=(14, 60), rng=rng)
        lumps += 0.018 * wave[:, None] * np.cos(turns * angles + rng.uniform(0, 2 * np.pi))
    radius *= 1 + lumps
    # The taeniae are three flat bands of muscle, each a shallow ridge.
    taeniae = np.exp(-((np.sin(1.5 * (around - np.pi / 3)) / 0.25) ** 2))
    radius *= 1 - taeniae * rng.uniform(0.02, 0.05)
    radius *= 1 - fold_share
    from_end = np.minimum(along_mm, along_mm[::-1]) / MIN_RADIUS_MM
    radius *= np.sqrt(1 - (1 - np.clip(from_end, 0, 1)) ** 2)[:, None]

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
        normals=normalized(normals).reshape(-1, 3),
        texture_px=_texture_px(grid),
        station=np.repeat(np.arange(num_rows, dtype=np.int32), NUM_COLUMNS + 1),
        faces=np.ascontiguousarray(faces),
    )


def _centerline(
    along_mm: FloatArray,
    *,
    sections: Sequence[Section],
    ends_mm: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return centers, tangents and two side vectors, each [S,3].

    The side vectors do not twist about the tangent: T' = a U + b V, U' = -a T, V' = -b T
    (Bishop 1975, "There is more than one way to frame a curve").
    """
    curvature = np.zeros((len(along_mm), 2))
    start_mm = 0.0
    for section, end_mm in zip(sections, ends_mm, strict=True):
        for _ in range(int(rng.integers(1, 4))):
            angle = np.radians(section.max_bend_deg * rng.uniform(0.4, 1.0))
            azimuth = rng.uniform(0, 2 * np.pi)
            spread_mm, middle_mm = rng.uniform(14, 30), rng.uniform(start_mm, end_mm)
            bump = np.exp(-0.5 * ((along_mm - middle_mm) / spread_mm) ** 2)
            peak = angle / (spread_mm * np.sqrt(2 * np.pi))
            curvature += peak * bump[:, None] * [np.cos(azimuth), np.sin(azimuth)]
        start_mm = end_mm
    # A bend that is tighter than the tube's width would fold the wall over itself.
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


def _folds(
    along_mm: FloatArray,
    *,
    sections: Sequence[Section],
    ends_mm: FloatArray,
    angles: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the height of the folds as a share of the radius, [S,A+1].

    A ring of folds is up to three rounded, irregular, tilted semilunar ridges between the taeniae.
    """
    folds = np.zeros((len(along_mm), len(angles)))
    position_mm = rng.uniform(5, 20)
    while position_mm < along_mm[-1]:
        section = sections[int(np.searchsorted(ends_mm, position_mm))]
        for sector in range(3):
            if rng.random() < section.missing_folds:
                continue
            around = angles - (sector * 2 + rng.uniform(-0.3, 0.3)) * np.pi / 3
            around = (around + np.pi) % (2 * np.pi) - np.pi
            half_width = rng.uniform(0.9, 1.5)
            lobe = np.cos(np.clip(around / half_width, -1, 1) * np.pi / 2) ** 1.5
            crest_mm = position_mm + rng.uniform(-4, 4) + rng.uniform(-2.5, 2.5) * around
            crest_mm = crest_mm + rng.uniform(0, 1.5) * np.sin(3 * around + rng.uniform(0, 6))
            width_mm = rng.uniform(*section.fold_width_mm)
            height = min(rng.uniform(*section.fold_share), MAX_FOLD_SHARE)
            rows = np.abs(along_mm - position_mm) < 12 + 4 * width_mm
            off_mm = (along_mm[rows, None] - crest_mm) / width_mm
            # Flatter than a Gaussian at the crest, and steeper at the sides.
            ridge = np.exp(-(np.abs(off_mm) ** 2.4))
            folds[rows] = np.maximum(folds[rows], height * lobe * ridge)
        position_mm += rng.uniform(*section.fold_gap_mm)
    return folds


def _texture_px(grid_mm: FloatArray) -> FloatArray:
    """Return texture positions [V,2]; they lie flat at the ends, where the columns meet."""
    num_rows, columns = grid_mm.shape[:2]
    row, column = np.divmod(np.arange(num_rows * columns), columns)
    laid = np.stack([column * (TILE_PX / NUM_COLUMNS), row * (STEP_MM * PX_PER_MM)], axis=1)
    rows = round(MIN_RADIUS_MM / STEP_MM)
    for cap, end_mm in (
        (slice(None, rows * columns), grid_mm[0, 0]),
        (slice(-rows * columns, None), grid_mm[-1, 0]),
    ):
        turn = column[cap] * (2 * np.pi / NUM_COLUMNS)
        to_end_px = PX_PER_MM * np.linalg.norm(grid_mm.reshape(-1, 3)[cap] - end_mm, axis=1)
        laid[cap] = np.stack([to_end_px * np.cos(turn), to_end_px * np.sin(turn)], axis=1)
    return laid
