"""The inside of a colon's mesh as voxels, and the line through its middle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_smoothing_spline
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from haustra.core.errors import HaustraError
from haustra.simulator.noise import FloatArray
from haustra.simulator.rays import NO_FACE, RayMesh, normalized
from haustra.simulator.tube import STEP_MM

IntArray = NDArray[np.intp]

VOXEL_MM = 2.0
"""Side of the voxels. A wall with edges of at most 1.5 mm has a vertex within 1.5 / sqrt(3) mm,
less than half a voxel, of each of its points. A line from one voxel's center to the next therefore
cannot pass the wall unless one of the two voxels holds a vertex."""
VOXEL_ML = VOXEL_MM**3 / 1000
MAX_OTHER_SHARE = 0.2  # largest allowed second space, as a share of the two largest
MIN_FREE_MM = 4.0
"""Smallest distance from the centerline to the wall, on the middle `FREE_SHARE` of the line."""
FREE_SHARE = 0.8
SMOOTH_MM = (70.0, 40.0, 20.0)
"""Shortest wavelengths that smoothing leaves in the centerline, tried in this order until the line
is far enough from the wall."""
NUM_SPOKES = 32  # rays across the tube that find its middle


@dataclass(frozen=True, kw_only=True, eq=False)
class Lumen:
    """One connected set of voxels inside the wall."""

    origin_mm: FloatArray  # [3] of the grid
    numbers: NDArray[np.int32]  # [X,Y,Z] row of `centers_mm`, -1 outside
    centers_mm: FloatArray  # [N,3]
    links: IntArray  # [2,E] rows of voxels that touch, each pair once

    def number_at(self, points_mm: FloatArray) -> NDArray[np.int32]:
        """Return the voxels that hold `points_mm` [N,3] as [N]; -1 outside."""
        voxels = _voxels(points_mm, origin_mm=self.origin_mm)
        within = np.clip(voxels, 0, np.array(self.numbers.shape) - 1)  # the border is outside
        return np.asarray(self.numbers[tuple(within.T)])

    def contains(self, points_mm: FloatArray) -> NDArray[np.bool_]:
        """Return whether each of `points_mm` [N,3] is inside, as [N]."""
        return self.number_at(points_mm) >= 0

    def graph(self, costs: FloatArray | float = 1.0) -> csr_array:
        """Return a graph for scipy's shortest paths; a step costs its length times `costs` [E]."""
        one, other = self.centers_mm[self.links]
        lengths_mm = np.linalg.norm(one - other, axis=1) * costs
        return csr_array((lengths_mm, tuple(self.links)), shape=(len(self.centers_mm),) * 2)


def _voxels(points_mm: FloatArray, *, origin_mm: FloatArray) -> IntArray:
    return np.floor((points_mm - origin_mm) / VOXEL_MM).astype(np.intp)


def find_lumen(wall_mm: FloatArray, *, caps_mm: FloatArray, path: Path) -> Lumen | None:
    """Return the largest space that the vertices of wall and caps enclose, or None."""
    shell_mm = np.concatenate([wall_mm, caps_mm])
    origin = shell_mm.min(axis=0) - 2 * VOXEL_MM
    shell = _voxels(shell_mm, origin_mm=origin)
    is_free = np.ones(shell.max(axis=0) + 3, dtype=bool)
    is_free[tuple(shell.T)] = False
    spaces, _ = ndimage.label(is_free)
    num_voxels = np.bincount(spaces.ravel())
    num_voxels[[0, spaces[0, 0, 0]]] = 0  # the wall and the outside
    if num_voxels.max() == 0:
        return None
    second, largest = np.sort(np.append(num_voxels, 0))[-2:]
    if second > MAX_OTHER_SHARE * (largest + second):
        raise HaustraError(
            f"{path} is closed off inside: its two largest spaces hold {largest * VOXEL_ML:.0f} "
            f"and {second * VOXEL_ML:.0f} ml, expected one lumen; open the wall between them"
        )
    inside = np.argwhere(spaces == num_voxels.argmax())
    numbers = np.full(is_free.shape, -1, dtype=np.int32)
    numbers[tuple(inside.T)] = np.arange(len(inside))
    links = []
    for offset in np.ndindex(3, 3, 3):
        if offset > (1, 1, 1):  # one of each two opposite neighbors
            beside = numbers[tuple((inside + offset - 1).T)]
            links.append(np.stack([np.flatnonzero(beside >= 0), beside[beside >= 0]]))
    return Lumen(
        origin_mm=origin,
        numbers=numbers,
        centers_mm=origin + (inside + 0.5) * VOXEL_MM,
        links=np.concatenate(links, axis=1),
    )


def find_centerline(
    lumen: Lumen, *, wall_mm: FloatArray, capped: RayMesh
) -> tuple[FloatArray, float]:
    """Return the line [S,3] through the lumen and its distance from the wall in mm.

    The line begins as the shortest path between the two voxels farthest apart, where a step costs
    its length over the squared distance to the wall. Rays then center it, a spline smooths it, and
    both ends are extended to the wall or opening.
    """
    path, wall_distance_mm = _voxel_path(lumen, wall_mm=wall_mm)
    # The farthest voxels lie in corners, so the first and last piece of the path is cut off.
    along_mm = _along_mm(path)
    corner_mm = 1.5 * wall_distance_mm
    middle = np.flatnonzero((along_mm > corner_mm) & (along_mm[-1] - along_mm > corner_mm))
    best, best_free_mm = np.zeros((1, 3)), -1.0
    if len(middle) < 8:
        return best, 0.0
    path = _extended(path[middle[0] : middle[-1] + 1], mesh=capped, leave_mm=2 * VOXEL_MM)
    wall = cKDTree(wall_mm, balanced_tree=False, compact_nodes=False)
    for wavelength_mm in SMOOTH_MM:
        line = _smoothed(path, wavelength_mm=wavelength_mm)
        for _ in range(3):
            line = _smoothed(_centered(line, mesh=capped), wavelength_mm=wavelength_mm)
        line = _at_steps(_extended(line, mesh=capped, leave_mm=0.0))
        distance_mm = np.where(lumen.contains(line), wall.query(line)[0], 0.0)
        skipped = round((1 - FREE_SHARE) / 2 * len(line))
        free_mm = float(distance_mm[skipped : len(line) - skipped].min())
        if free_mm > best_free_mm:
            quarter = len(line) // 4
            is_narrow_first = distance_mm[:quarter].sum() <= distance_mm[-quarter:].sum()
            best, best_free_mm = line if is_narrow_first else line[::-1].copy(), free_mm
        if best_free_mm >= MIN_FREE_MM:
            break
    return best, best_free_mm


def _voxel_path(lumen: Lumen, *, wall_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the path's voxels, [P,3], and their distances to the wall, [P]."""
    coarse = np.unique(_voxels(wall_mm, origin_mm=lumen.origin_mm), axis=0)
    wall = cKDTree(lumen.origin_mm + (coarse + 0.5) * VOXEL_MM)
    distance_mm = wall.query(lumen.centers_mm)[0]
    ways = lumen.graph()
    start = int(dijkstra(ways, directed=False, indices=0).argmax())
    end = int(dijkstra(ways, directed=False, indices=start).argmax())
    one, other = distance_mm[lumen.links] ** -2
    costly = lumen.graph((one + other) / 2)
    _, previous = dijkstra(costly, directed=False, indices=start, return_predecessors=True)
    path = [end]
    while path[-1] != start:
        path.append(int(previous[path[-1]]))
    return lumen.centers_mm[path], distance_mm[path]


def _along_mm(points_mm: FloatArray) -> FloatArray:
    """Return the position of each of `points_mm` [P,3] along the line through them, [P]."""
    steps_mm = np.linalg.norm(np.diff(points_mm, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps_mm)])


def _at_steps(points_mm: FloatArray) -> FloatArray:
    """Return points `STEP_MM` apart along the line through `points_mm` [P,3]."""
    along_mm = _along_mm(points_mm)
    wanted_mm = np.arange(int(along_mm[-1] / STEP_MM) + 1) * STEP_MM
    return np.stack([np.interp(wanted_mm, along_mm, axis) for axis in points_mm.T], axis=1)


def _smoothed(points_mm: FloatArray, *, wavelength_mm: float) -> FloatArray:
    """Return the line without waves shorter than a wavelength, as points `STEP_MM` apart.

    A smoothing spline that weighs the squared second derivative by w against d points per mm
    scales a wave of angular frequency f per mm by 1 / (1 + (w / d) f^4): half at f^4 = d / w.
    """
    points_mm = _at_steps(points_mm)
    if len(points_mm) < 8:
        return points_mm
    along_mm = np.arange(len(points_mm)) * STEP_MM
    weight = (wavelength_mm / (2 * np.pi)) ** 4 / STEP_MM
    smooth = [make_smoothing_spline(along_mm, axis, lam=weight)(along_mm) for axis in points_mm.T]
    return _at_steps(np.stack(smooth, axis=1))


def _extended(line_mm: FloatArray, *, mesh: RayMesh, leave_mm: float) -> FloatArray:
    """Extend a line straight at both ends, until `leave_mm` before the wall or opening."""
    for _ in range(2):
        line_mm = line_mm[::-1]
        back = int(np.searchsorted(_along_mm(line_mm[::-1]), 10.0).clip(1, len(line_mm) - 1))
        ahead = normalized(line_mm[-1] - line_mm[-1 - back])
        hits = mesh.first_hits(line_mm[-1], directions=ahead[None])
        if hits.face[0] != NO_FACE and hits.distance[0] > leave_mm:
            end_mm = line_mm[-1] + (float(hits.distance[0]) - leave_mm) * ahead
            line_mm = np.concatenate([line_mm, end_mm[None]])
    return line_mm


def frames_along(line_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return tangents and sides of a line [S,3]; sides do not twist about the line."""
    tangents = normalized(np.gradient(line_mm, axis=0))
    sides = np.empty_like(tangents)
    side = np.eye(3)[np.abs(tangents[0]).argmin()]
    for row, tangent in enumerate(tangents):
        side = side - (side @ tangent) * tangent
        side /= np.linalg.norm(side)
        sides[row] = side
    return tangents, sides


def _centered(line_mm: FloatArray, *, mesh: RayMesh) -> FloatArray:
    """Move each point [S,3] to the middle of the tube's cross-section there."""
    tangents, sides = frames_along(line_mm)
    turn = np.arange(NUM_SPOKES) * (2 * np.pi / NUM_SPOKES)
    across = np.stack([sides, np.cross(tangents, sides)], axis=1)
    spokes = np.einsum("ka,sax->skx", np.stack([np.cos(turn), np.sin(turn)], axis=1), across)
    starts = np.repeat(line_mm, NUM_SPOKES, axis=0)
    hits = mesh.first_hits(starts, directions=spokes.reshape(-1, 3))
    reach_mm = hits.distance.astype(np.float64).reshape(len(line_mm), NUM_SPOKES)
    reach_mm[hits.face.reshape(reach_mm.shape) == NO_FACE] = 0.0
    # Rays along a bend or into a pocket say little about the middle, so they are cut.
    reach_mm = np.minimum(reach_mm, 1.5 * np.median(reach_mm, axis=1, keepdims=True))
    # The centroid of a fan of triangles from the point.
    area = np.maximum((reach_mm**2).sum(axis=1), 1e-9)
    shift_mm = 2 / 3 * np.einsum("sk,skx->sx", reach_mm**3, spokes) / area[:, None]
    return np.asarray(line_mm + shift_mm)


def nearest_stations(
    vertices_mm: FloatArray, *, normals: FloatArray, line: FloatArray, lumen: Lumen
) -> IntArray:
    """Return the nearest row of the line for each vertex, [V].

    The search starts at the row that is nearest through the lumen, so that no vertex is assigned
    to another part of the colon that lies against its own.
    """
    row_of_voxel = np.full(len(lumen.centers_mm), -1)
    line_voxels = lumen.number_at(line)
    row_of_voxel[line_voxels[line_voxels >= 0]] = np.flatnonzero(line_voxels >= 0)
    _, _, source = dijkstra(
        lumen.graph(),
        directed=False,
        indices=np.flatnonzero(row_of_voxel >= 0),
        min_only=True,
        return_predecessors=True,
    )
    _, voxel = cKDTree(lumen.centers_mm).query(vertices_mm + VOXEL_MM * normals)
    station = row_of_voxel[source[voxel]]
    nearest_mm = np.linalg.norm(vertices_mm - line[station], axis=1)
    for step in (16, -16, 8, -8, 4, -4, 2, -2, 1, -1, 1, -1):
        moved = np.clip(station + step, 0, len(line) - 1)
        moved_mm = np.linalg.norm(vertices_mm - line[moved], axis=1)
        station = np.where(moved_mm < nearest_mm, moved, station)
        nearest_mm = np.minimum(moved_mm, nearest_mm)
    return np.asarray(station)
