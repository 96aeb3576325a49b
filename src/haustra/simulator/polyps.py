"""Polyps as closed meshes, and their positions on the wall.

A polyp is a surface of revolution with lumps, draped over the wall along one axis: its rim lies on
the wall, and everything below the rim is buried. Labels are about the part above the rim, which is
called exposed.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError, option
from haustra.simulator.noise import FloatArray
from haustra.simulator.rays import NO_FACE, RayMesh, face_normals, grid_faces, normalized
from haustra.simulator.tube import Tube

NUM_SEGMENTS = 64
_AZIMUTH = np.arange(NUM_SEGMENTS) * (2 * np.pi / NUM_SEGMENTS)
AROUND = np.stack([np.cos(_AZIMUTH), np.sin(_AZIMUTH)], axis=-1)
"""Unit vectors [segments,2] across the axis."""
NUM_EXPOSED_ROWS = 28
BURIED_MM = 1.2
SIZE_MM = (2.0, 30.0)  # default range of widths
LST_MM = 10.0
"""Smallest width of a flat lesion that is called a laterally spreading tumor (Kudo 1993)."""
MIN_CENTERLINE_GAP_MM = 6.0
"""Smallest distance of polyps from the centerline, so that a camera can always pass."""
MIN_FACING = 0.35  # smallest cosine between the polyp's axis and the normals of the wall below it
TRIES_PER_SIZE = 30
NUM_FOOT_ROWS = 5
"""Rows above the rim over which the wall's texture and slope change to the polyp's."""

Sizes = Literal["procedure", "even"]
"""Distribution of polyp widths.

"procedure": log-normal with median 4.5 mm; about six in ten are at most 5 mm and one in ten above
10 mm, as in screening (Butterly et al. 2006). "even": uniform from 4 mm on a logarithmic scale,
for training.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Polyp:
    """One polyp on the wall, closed, in millimeters of the world."""

    size_mm: float  # largest width across its axis
    paris_class: str
    """Paris classification: "0-Is" sessile, "0-Ip" stalked, "0-IIa" slightly raised; "LST"
    laterally spreading, which is 0-IIa of 10 mm and more."""
    axis: FloatArray  # [3] unit vector from the foot into the lumen
    station: int  # row of the centerline that the foot belongs to
    center_mm: FloatArray  # [3] mean of the exposed vertices
    vertices_mm: FloatArray  # [V,3]
    surface_mm: FloatArray
    """[V,2] distance from the apex along the surface, laid out flat, for textures."""
    faces: NDArray[np.int32]  # [F,3], right-handed normals outward
    exposed_faces: NDArray[np.int32]  # [E,3] the first of the faces, those above the rim
    rise: FloatArray  # [V] 0 at the rim, 1 from a few rows above it
    own_look: float  # share of the polyp's own texture above the foot, 0..1
    wall_normals: FloatArray  # [V,3] the wall's unit normals below each vertex


class _Shape(NamedTuple):
    """A polyp before it is placed: rows from apex to rim, then buried rows; z along the axis."""

    size_mm: float
    paris_class: str
    grid_mm: FloatArray  # [rows,segments,3]
    stalk_mm: float


def place_polyps(
    tube: Tube,
    *,
    num_polyps: int,
    sizes: Sizes = "procedure",
    size_mm: tuple[float, float] = SIZE_MM,
    rng: np.random.Generator,
) -> list[Polyp]:
    """Return random polyps of widths in the range `size_mm`, placed so that none touch.

    A polyp that fits nowhere after a number of tries is drawn again, smaller.

    Raises:
        HaustraError: The wall has no room for so many polyps of these sizes.
    """
    wall = RayMesh(tube.vertices_mm, faces=tube.faces)
    wall_normals = normalized(face_normals(tube.vertices_mm, faces=tube.faces))
    placed: list[Polyp] = []
    for _ in range(num_polyps):
        width_mm = _draw_size_mm(sizes, size_mm=size_mm, rng=rng)
        for attempt in range(20 * TRIES_PER_SIZE):
            if attempt % TRIES_PER_SIZE == 0:
                width_mm = max(size_mm[0], width_mm * (0.85 if attempt else 1.0))
                shape = _draw_shape(width_mm, rng=rng)
            at = int(rng.integers(len(tube.vertices_mm)))
            polyp = _attach(shape, tube=tube, at=at, wall=wall, wall_normals=wall_normals, rng=rng)
            if polyp is not None and not any(_too_close(polyp, other) for other in placed):
                placed.append(polyp)
                break
        else:
            raise HaustraError(
                f"{option('polyp_size_mm')} {size_mm[0]:g} {size_mm[1]:g}: no room on the wall for "
                f"polyp {len(placed) + 1} of {num_polyps}; choose smaller or fewer polyps"
            )
    return placed


def _draw_size_mm(sizes: Sizes, *, size_mm: tuple[float, float], rng: np.random.Generator) -> float:
    least, greatest = size_mm
    if sizes == "even":
        least = min(max(least, 4.0), greatest)
        return float(least * (greatest / least) ** rng.random())
    drawn = 4.5 * np.exp(0.62 * rng.standard_normal())
    return float(np.clip(drawn, least, greatest))


def _too_close(a: Polyp, b: Polyp) -> bool:
    reach_mm = sum(np.ptp(p.vertices_mm, axis=0).max() for p in (a, b)) / 2
    return bool(np.linalg.norm(a.center_mm - b.center_mm) < reach_mm + 2)


def _draw_shape(size_mm: float, *, rng: np.random.Generator) -> _Shape:
    """Draw the class, profile and lumps of a polyp of a given width."""
    stalked = 5 <= size_mm <= 16 and rng.random() < 0.22
    flat = not stalked and size_mm >= 4 and rng.random() < 0.3
    half_mm, stalk_mm = size_mm / 2, 0.0
    if stalked:
        paris_class = "0-Ip"
        stalk_mm = size_mm * rng.uniform(0.15, 0.45)
        head_mm = half_mm * rng.uniform(0.7, 0.95)  # half the height of the head
        neck = rng.uniform(0.4, 0.6)
        turn = np.linspace(0, np.pi - np.arcsin(neck), NUM_EXPOSED_ROWS - 6)
        down = np.linspace(0, 1, 7)[1:]
        neck_z = stalk_mm + head_mm + head_mm * np.cos(turn[-1])
        radius = np.concatenate(
            [np.sin(turn), neck * (1 - 0.15 * np.sin(np.pi * down) + 0.25 * down**3)]
        )
        z_mm = np.concatenate([stalk_mm + head_mm * (1 + np.cos(turn)), neck_z * (1 - down)])
    else:
        paris_class = ("LST" if size_mm >= LST_MM else "0-IIa") if flat else "0-Is"
        # Paris: a slightly raised lesion stands less than 2.5 mm above the mucosa.
        height_mm = size_mm * (rng.uniform(0.16, 0.26) if flat else rng.uniform(0.3, 0.75))
        height_mm = min(height_mm, 2.5) if flat else height_mm
        roundness = rng.uniform(2.2, 3.2) if flat else rng.uniform(1.8, 2.5)
        soft = rng.random() < 0.55
        turn = np.linspace(0, np.pi / 2, NUM_EXPOSED_ROWS)
        z_mm = height_mm * np.cos(turn) ** (2 / roundness)
        z_mm[-1] = 0
        low = 1 - z_mm / height_mm
        waist = 0.0 if flat else rng.uniform(0, 0.3)
        flare = rng.uniform(0, 0.35)  # width of the foot
        radius = np.sin(turn) ** (2 / roundness) * (1 - waist * low**2 + flare * low**8)
        if soft:  # a hill without an edge to the wall
            radius = np.linspace(0, 1, NUM_EXPOSED_ROWS)
            top, foot = rng.uniform(1.8, 3.0), rng.uniform(1.2, 2.0)
            z_mm = height_mm * (1 - radius**top) ** foot
    radius = np.append(radius, [radius[-1], 0.0])
    z_mm = np.append(z_mm, [-BURIED_MM, -BURIED_MM])

    grid = np.empty((len(radius), NUM_SEGMENTS, 3))
    grid[..., :2] = half_mm * radius[:, None, None] * AROUND
    grid[..., 2] = z_mm[:, None]
    directions = normalized(grid / [half_mm, half_mm, max(z_mm.max() / 1.5, 0.1)])
    grid *= 1 + _lumps(directions, flat=flat, rng=rng)[..., None]
    grid[:NUM_EXPOSED_ROWS, :, 2] *= z_mm.max() / grid[..., 2].max()  # lumps keep the height
    stretch = rng.uniform(1.0, 1.35)
    grid *= [stretch, 1, 1]
    grid[..., :2] += rng.uniform(-0.3, 0.3, size=2) * np.maximum(grid[..., 2:], 0)
    grid[..., :2] *= size_mm / _largest_width(grid[:NUM_EXPOSED_ROWS, :, :2])
    return _Shape(size_mm=size_mm, paris_class=paris_class, grid_mm=grid, stalk_mm=stalk_mm)


def _lumps(directions: FloatArray, *, flat: bool, rng: np.random.Generator) -> FloatArray:
    """Return the relative swelling of a surface along unit directions [...,3].

    All polyps have broad bulges, six in ten have lobes, and half of those have small nodules.
    """
    flatten = [1, 1, 0.5 if flat else 1]
    layers = [(rng.integers(5, 12), (1.0, 5.0), (-0.4, 1.0), rng.uniform(0.1, 0.25))]
    if rng.random() < 0.6:
        layers.append((rng.integers(8, 22), (8.0, 30.0), (-0.2, 1.0), rng.uniform(0.2, 0.6)))
        if rng.random() < 0.5:
            layers.append((rng.integers(30, 80), (25.0, 60.0), (0.0, 1.0), rng.uniform(0.04, 0.14)))
    swelling = np.zeros(directions.shape[:-1])
    for number, sharpness, signs, height in layers:
        # The maximum of the bumps instead of their sum leaves clefts between them.
        bumps = np.zeros(directions.shape[:-1])
        for _ in range(int(number)):
            toward = normalized(rng.standard_normal(3) * flatten)
            bump = rng.uniform(*signs) * np.exp(rng.uniform(*sharpness) * (directions @ toward - 1))
            bumps = np.where(np.abs(bump) > np.abs(bumps), bump, bumps)
        swelling += height * bumps
    return np.asarray(np.clip(swelling, -0.35, 0.8))


def _largest_width(points: FloatArray) -> float:
    angles = np.linspace(0, np.pi, 64, endpoint=False)
    spans = points.reshape(-1, 2) @ np.stack([np.cos(angles), np.sin(angles)])
    return float(np.ptp(spans, axis=0).max())


def _attach(
    shape: _Shape,
    *,
    tube: Tube,
    at: int,
    wall: RayMesh,
    wall_normals: FloatArray,
    rng: np.random.Generator,
) -> Polyp | None:
    """Drape a shape over the wall at vertex `at`; return None if it does not fit."""
    foot, axis = tube.vertices_mm[at], tube.normals[at]
    across = normalized(np.cross(axis, rng.standard_normal(3)))
    frame = np.stack([across, np.cross(axis, across), axis])
    points = shape.grid_mm.reshape(-1, 3)

    lift_mm = 8.0
    starts = foot + (points * [1, 1, 0]) @ frame + lift_mm * axis
    hits = wall.first_hits(starts, directions=np.broadcast_to(-axis, starts.shape))
    if (hits.face == NO_FACE).any() or (wall_normals[hits.face] @ axis < MIN_FACING).any():
        return None
    wall_mm = lift_mm - hits.distance.astype(np.float64)
    if np.abs(wall_mm).max() > 0.3 * shape.size_mm + 1:
        return None
    # The head on a stalk does not follow the wall below.
    follows = 1.0 if not shape.stalk_mm else np.clip(1 - points[:, 2] / shape.stalk_mm, 0, 1)
    draped = points + np.array([0, 0, 1]) * (follows * wall_mm)[:, None]
    num_exposed = NUM_EXPOSED_ROWS * NUM_SEGMENTS
    if (draped[:num_exposed, 2] < wall_mm[:num_exposed] - 1e-6).any():
        return None
    vertices = foot + draped @ frame
    gaps = np.linalg.norm(vertices[::3, None] - tube.centers_mm[None, ::4], axis=-1)
    if gaps.min() < MIN_CENTERLINE_GAP_MM:
        return None

    rows = vertices.reshape(shape.grid_mm.shape)
    along = np.linalg.norm(np.diff(rows, axis=0), axis=-1).cumsum(axis=0)
    along = np.concatenate([np.zeros((1, NUM_SEGMENTS)), along])
    surface = along[..., None] * AROUND
    exposed = grid_faces(NUM_EXPOSED_ROWS, num_columns=NUM_SEGMENTS, wraps=True)
    buried = grid_faces(len(rows) - NUM_EXPOSED_ROWS + 1, num_columns=NUM_SEGMENTS, wraps=True)
    faces = np.concatenate([exposed, buried + (NUM_EXPOSED_ROWS - 1) * NUM_SEGMENTS])[:, ::-1]
    to_rim = np.clip(NUM_EXPOSED_ROWS - 1 - np.arange(len(rows)), 0, None) / NUM_FOOT_ROWS
    rise = np.clip(to_rim, 0, 1)
    return Polyp(
        size_mm=shape.size_mm,
        paris_class=shape.paris_class,
        axis=axis,
        station=int(tube.station[at]),
        center_mm=vertices[:num_exposed].mean(axis=0),
        vertices_mm=vertices,
        surface_mm=surface.reshape(-1, 2),
        faces=faces,
        exposed_faces=faces[: len(exposed)],
        rise=np.repeat(rise**2 * (3 - 2 * rise), NUM_SEGMENTS),
        own_look=rng.uniform(0.3, 1),
        wall_normals=wall_normals[hits.face],
    )
