"""A user's own colon: a mesh file in millimetres becomes the `Tube` that `build_tube` makes.

The mesh may be open at its ends or closed, and its faces may look either way. Its edges are
halved until polyps can grow anywhere, its inside is found on a grid of voxels, and the line
through the middle of that inside gives every vertex its place. Holes are not mended: a ray that
leaves through one meets nothing.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError, MissingExtraError
from haustra.simulator.noise import FloatArray
from haustra.simulator.rays import NO_FACE, RayMesh, face_normals, normalised, vertex_normals
from haustra.simulator.tube import MIN_RADIUS_MM, PX_PER_MM, STEP_MM, TILE_PX, Tube

SUFFIXES = (".glb", ".obj", ".ply", ".stl")
MAX_FACES = 1_500_000
"""Most faces of the wall, after its long edges are halved."""
MAX_EDGE_MM = 1.5
VOXEL_MM = 2.0
"""Side of the voxels. A wall with edges of at most `MAX_EDGE_MM` has a vertex within
`MAX_EDGE_MM` / sqrt(3), less than half a voxel, of each of its points; so a line from one voxel's
centre to the next cannot pass the wall without one of the two voxels holding a vertex."""
MAX_VOXELS = 60_000_000
VOXEL_ML = VOXEL_MM**3 / 1000
MAX_OTHER_SHARE = 0.2
"""Largest second part of a mesh, as a share of all faces, and of its inside, as a share of the two
largest spaces; what is smaller is dropped."""
MIN_LENGTH_MM = 60.0
MIN_FREE_MM = 4.0
"""Least distance from the centreline to the wall, on its middle `FREE_SHARE`."""
FREE_SHARE = 0.8
SMOOTH_MM = (70.0, 40.0, 20.0)
"""Wavelength from which on waves of the centreline stay: the first that leaves it free, or last."""
NUM_SPOKES = 32
"""Rays across the tube that look for its middle."""
CAP_COSINE = 0.7
"""A face near an end that looks along the tube by at least this is part of the end's cap."""

IntArray = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lumen:
    """The voxels inside the wall, one connected part."""

    origin_mm: FloatArray  # [3] of the grid
    numbers: NDArray[np.int32]  # [X,Y,Z] row of `centers_mm`, -1 outside
    centers_mm: FloatArray  # [N,3]
    from_voxel: IntArray  # [E] with `to_voxel`: rows of voxels that touch, each pair once
    to_voxel: IntArray

    def contains(self, points_mm: FloatArray) -> NDArray[np.bool_]:
        """Tell for `points_mm` [N,3] whether they are inside, [N]."""
        return self.number_at(points_mm) >= 0

    def number_at(self, points_mm: FloatArray) -> NDArray[np.int32]:
        """Return the voxels that hold `points_mm` [N,3], [N]; -1 outside."""
        voxels = _voxels(points_mm, origin_mm=self.origin_mm)
        within = np.clip(voxels, 0, np.array(self.numbers.shape) - 1)  # the border is outside
        return np.asarray(self.numbers[tuple(within.T)])

    def graph(self, costs: FloatArray | float = 1.0) -> Any:
        """Return what scipy's shortest paths take: a step costs its length times `costs` [E]."""
        from scipy.sparse import csr_array

        steps_mm = self.centers_mm[self.from_voxel] - self.centers_mm[self.to_voxel]
        lengths_mm = np.linalg.norm(steps_mm, axis=1) * costs
        shape = (len(self.centers_mm), len(self.centers_mm))
        return csr_array((lengths_mm, (self.from_voxel, self.to_voxel)), shape=shape)


def load_mesh_tube(path: Path) -> Tube:
    """Read a colon's wall from a mesh file and find the line through its lumen.

    The file's unit is the millimetre, in glTF too, whose own unit is the metre. Only shape is
    read; materials and textures are not. The largest connected part is the wall. The centreline
    starts at the narrower end, which is the rectum's in a whole colon.

    Args:
        path: a .glb, .obj, .ply or .stl file.

    Raises:
        HaustraError: the file is missing, unreadable or too large, or holds no lumen that a
            camera could pass.
        MissingExtraError: trimesh, scipy or embreex is not installed.
    """
    vertices, faces = _read_mesh(path)
    size_mm = np.ptp(vertices, axis=0)
    size_text = " x ".join(f"{side:.1f}" for side in size_mm) + " mm"
    if np.prod(size_mm / VOXEL_MM + 4) > MAX_VOXELS:
        raise HaustraError(
            f"{path} measures {size_text}, expected the size of a colon in millimetres; scale it"
        )
    vertices, faces = _subdivided(vertices, faces=faces, path=path)
    cap_vertices, cap_faces = _caps(vertices, faces=faces)
    cap_vertices, cap_faces = _subdivided(cap_vertices, faces=cap_faces, path=path)
    lumen = _find_lumen(vertices, caps_mm=cap_vertices, path=path)
    line, free_mm = np.zeros((1, 3)), 0.0
    if lumen is not None:
        capped = RayMesh(
            np.concatenate([vertices, cap_vertices]),
            faces=np.concatenate([faces, cap_faces + len(vertices)]),
        )
        line, free_mm = _find_centreline(lumen, wall_mm=vertices, capped=capped)
    length_mm = STEP_MM * (len(line) - 1)
    if lumen is None or length_mm < MIN_LENGTH_MM or free_mm < MIN_FREE_MM:
        raise HaustraError(
            f"{path} holds no lumen that a camera can pass: the line through it is "
            f"{length_mm:.0f} mm long with {free_mm:.1f} mm free around it, expected at least "
            f"{MIN_LENGTH_MM:.0f} mm and {MIN_FREE_MM:.0f} mm; the mesh is {size_text}: check "
            "that its unit is the millimetre (scale one in metres by 1000)"
        )
    return _build(
        vertices, faces=_facing_in(vertices, faces=faces, lumen=lumen), line=line, lumen=lumen
    )


def _read_mesh(path: Path) -> tuple[FloatArray, IntArray]:
    """Return the vertices [V,3] and faces [F,3] of a file's largest part, checked."""
    for package in ("trimesh", "scipy", "embreex"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="simulate", needed_for="haustra datagen --mesh")
    import trimesh

    if path.suffix.lower() not in SUFFIXES:
        raise HaustraError(
            f"{path} has the suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}; export the "
            "mesh in one of these formats"
        )
    if not path.is_file():
        raise HaustraError(f"{path} does not exist; expected a mesh file; mend the path")
    try:
        mesh = trimesh.load_mesh(path, process=False, skip_materials=True)
        vertices = np.array(mesh.vertices, dtype=np.float64)
        faces = np.array(mesh.faces, dtype=np.intp)
        broken = len(faces) > 0 and not 0 <= faces.min() <= faces.max() < len(vertices)
    except Exception as error:  # the parsers raise whatever a damaged file makes them stumble on
        raise HaustraError(_unreadable(path)) from error
    # A damaged binary STL is read as text, which has no faces; a whole one holds nothing else.
    if broken or (path.suffix.lower() == ".stl" and len(faces) == 0):
        raise HaustraError(_unreadable(path))
    if not np.isfinite(vertices).all():
        number = int((~np.isfinite(vertices).all(axis=1)).sum())
        raise HaustraError(
            f"{path} has {number} vertices that are not finite; expected numbers in millimetres; "
            "export the mesh again"
        )
    vertices, faces = _merged(vertices, faces=faces)
    if len(faces) == 0:
        raise HaustraError(
            f"{path} has no faces; expected a mesh of triangles; export a surface, not points"
        )
    return _largest_part(vertices, faces=faces, path=path)


def _unreadable(path: Path) -> str:
    return f"{path} cannot be read as {path.suffix.lower()}; expected a mesh; export it again"


def _merged(vertices_mm: FloatArray, *, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Make vertices at one place the same one; drop faces without area or there twice."""
    if len(faces) == 0:
        return vertices_mm, faces
    lowest = vertices_mm.min(axis=0)
    extent = max(float((vertices_mm - lowest).max()), 1e-9)
    place = np.round((vertices_mm - lowest) / extent * 2**20).astype(np.int64)
    keys = (place[:, 0] << 42) | (place[:, 1] << 21) | place[:, 2]
    _, kept, number = np.unique(keys, return_index=True, return_inverse=True)
    faces = number[faces]
    corners = np.sort(faces, axis=1)
    faces = faces[(corners[:, 0] < corners[:, 1]) & (corners[:, 1] < corners[:, 2])]
    _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return vertices_mm[kept], faces[np.sort(once)]


def _largest_part(
    vertices_mm: FloatArray, *, faces: IntArray, path: Path
) -> tuple[FloatArray, IntArray]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())
    shape = (len(vertices_mm), len(vertices_mm))
    links = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=shape)
    part = connected_components(links, directed=False)[1][faces[:, 0]]
    num_faces = np.bincount(part)
    second = np.sort(num_faces)[-2] if (num_faces > 0).sum() > 1 else 0
    if second > MAX_OTHER_SHARE * len(faces):
        raise HaustraError(
            f"{path} has a second part with {second} of its {len(faces)} faces, expected one "
            f"colon and at most {MAX_OTHER_SHARE:.0%} of the faces in each other part; export the "
            "inner wall of the colon alone"
        )
    used, faces = np.unique(faces[part == num_faces.argmax()], return_inverse=True)
    return vertices_mm[used], faces.reshape(-1, 3)


def _edges(faces: IntArray) -> tuple[IntArray, IntArray]:
    """Return the edges [E,2] of faces [F,3], and which of them each face has, [F,3].

    Edge k of a face goes from its corner k to the next; the lower vertex of an edge comes first.
    """
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)
    scale = int(faces.max(initial=0)) + 1
    keys, number = np.unique(ends.min(axis=-1) * scale + ends.max(axis=-1), return_inverse=True)
    return np.stack(np.divmod(keys, scale), axis=1), number.reshape(-1, 3)


def _subdivided(
    vertices_mm: FloatArray, *, faces: IntArray, path: Path
) -> tuple[FloatArray, IntArray]:
    """Halve edges longer than `MAX_EDGE_MM` until there are none; faces keep sharing vertices."""
    while True:
        if len(faces) > MAX_FACES:
            raise HaustraError(
                f"{path} comes to {len(faces)} faces or more with edges of at most "
                f"{MAX_EDGE_MM:g} mm, expected at most {MAX_FACES}; give it fewer faces or "
                "less uneven ones, or scale it if its unit is not the millimetre"
            )
        edges, edge_of_face = _edges(faces)
        ends_mm = vertices_mm[edges]
        is_long = np.linalg.norm(ends_mm[:, 0] - ends_mm[:, 1], axis=1) > MAX_EDGE_MM
        if not is_long.any():
            return vertices_mm, faces
        middle = np.full(len(edges), -1)
        middle[is_long] = len(vertices_mm) + np.arange(is_long.sum())
        vertices_mm = np.concatenate([vertices_mm, ends_mm[is_long].mean(axis=1)])
        faces = _split(faces, middle=middle[edge_of_face], vertices_mm=vertices_mm)


def _split(faces: IntArray, *, middle: IntArray, vertices_mm: FloatArray) -> IntArray:
    """Split faces at `middle` [F,3], the vertex that halves each edge or -1."""
    halved = middle >= 0
    num_halved = halved.sum(axis=1)
    # Corners turn so that one halved edge comes first, and two come first and second.
    first = np.where(num_halved == 1, halved.argmax(axis=1), (halved.argmin(axis=1) + 1) % 3)
    turned = (first[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(faces, turned, axis=1).T
    ab, bc, ca = np.take_along_axis(middle, turned, axis=1).T
    diagonals_mm = [
        np.linalg.norm(vertices_mm[p] - vertices_mm[q], axis=1) for p, q in ((a, bc), (ab, c))
    ]
    one, three = num_halved == 1, num_halved == 3
    two = (num_halved == 2) & (diagonals_mm[0] <= diagonals_mm[1])
    two_other = (num_halved == 2) & ~two
    pieces = [
        (num_halved == 0, [(a, b, c)]),
        (one, [(a, ab, c), (ab, b, c)]),
        (two, [(ab, b, bc), (a, ab, bc), (a, bc, c)]),
        (two_other, [(ab, b, bc), (a, ab, c), (ab, bc, c)]),
        (three, [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]),
    ]
    return np.concatenate(
        [np.stack(corners, axis=1)[rows] for rows, split in pieces for corners in split]
    )


def _caps(vertices_mm: FloatArray, *, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Close each opening with a fan from its middle; return the fans' vertices and faces."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges, edge_of_face = _edges(faces)
    rim = edges[np.bincount(edge_of_face.ravel()) == 1]
    used, rim = np.unique(rim, return_inverse=True)
    rim = rim.reshape(-1, 2)
    links = coo_array((np.ones(len(rim), dtype=np.int8), tuple(rim.T)), shape=(len(used),) * 2)
    num_openings, opening = connected_components(links, directed=False)
    rim_mm = vertices_mm[used]
    middles_mm = [rim_mm[opening == number].mean(axis=0) for number in range(num_openings)]
    fans = np.column_stack([rim, len(used) + opening[rim[:, 0]]])
    return np.concatenate([rim_mm, np.reshape(middles_mm, (-1, 3))]), fans


def _voxels(points_mm: FloatArray, *, origin_mm: FloatArray) -> IntArray:
    return np.floor((points_mm - origin_mm) / VOXEL_MM).astype(np.intp)


def _find_lumen(wall_mm: FloatArray, *, caps_mm: FloatArray, path: Path) -> _Lumen | None:
    """Return the largest space that the vertices of wall and caps close off, or None."""
    from scipy import ndimage

    shell_mm = np.concatenate([wall_mm, caps_mm])
    origin = shell_mm.min(axis=0) - 2 * VOXEL_MM
    shell = _voxels(shell_mm, origin_mm=origin)
    is_free = np.ones(shell.max(axis=0) + 3, dtype=bool)
    is_free[tuple(shell.T)] = False
    spaces, _ = ndimage.label(is_free)
    num_voxels = np.bincount(spaces.ravel())
    num_voxels[[0, spaces[0, 0, 0]]] = 0  # the wall and what is outside
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
    pairs = []
    for offset in np.ndindex(3, 3, 3):
        if offset > (1, 1, 1):  # one of each two opposite neighbours
            beside = numbers[tuple((inside + offset - 1).T)]
            pairs.append(np.stack([np.flatnonzero(beside >= 0), beside[beside >= 0]]))
    from_voxel, to_voxel = np.concatenate(pairs, axis=1)
    return _Lumen(
        origin_mm=origin,
        numbers=numbers,
        centers_mm=origin + (inside + 0.5) * VOXEL_MM,
        from_voxel=from_voxel,
        to_voxel=to_voxel,
    )


def _find_centreline(
    lumen: _Lumen, *, wall_mm: FloatArray, capped: RayMesh
) -> tuple[FloatArray, float]:
    """Return the line [S,3] through the lumen and how far it stays from the wall, in mm.

    It is the shortest path between the two voxels farthest apart, where a step costs its length
    over the squared distance to the wall; then it is centred by rays, smoothed and led on to
    the wall or opening at both ends.
    """
    from scipy.spatial import cKDTree

    path, wall_distance_mm = _voxel_path(lumen, wall_mm=wall_mm)
    # The farthest voxels lie in corners; their way to the middle is not the tube's.
    along_mm = _along_mm(path)
    corner_mm = 1.5 * wall_distance_mm
    middle = np.flatnonzero((along_mm > corner_mm) & (along_mm[-1] - along_mm > corner_mm))
    best, best_free_mm = np.zeros((1, 3)), -1.0
    if len(middle) < 8:
        return best, 0.0
    path = _led_on(path[middle[0] : middle[-1] + 1], mesh=capped, leave_mm=2 * VOXEL_MM)
    wall = cKDTree(wall_mm, balanced_tree=False, compact_nodes=False)
    for wavelength_mm in SMOOTH_MM:
        line = _smoothed(path, wavelength_mm=wavelength_mm)
        for _ in range(3):
            line = _smoothed(_centred(line, mesh=capped), wavelength_mm=wavelength_mm)
        line = _at_steps(_led_on(line, mesh=capped, leave_mm=0.0))
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


def _voxel_path(lumen: _Lumen, *, wall_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the path's voxels, [P,3], and their distances to the wall, [P]."""
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial import cKDTree

    coarse = np.unique(_voxels(wall_mm, origin_mm=lumen.origin_mm), axis=0)
    wall = cKDTree(lumen.origin_mm + (coarse + 0.5) * VOXEL_MM)
    distance_mm = wall.query(lumen.centers_mm)[0]
    ways = lumen.graph()
    start = int(dijkstra(ways, directed=False, indices=0).argmax())
    end = int(dijkstra(ways, directed=False, indices=start).argmax())
    cost = (distance_mm[lumen.from_voxel] ** -2 + distance_mm[lumen.to_voxel] ** -2) / 2
    _, previous = dijkstra(
        lumen.graph(cost), directed=False, indices=start, return_predecessors=True
    )
    path = [end]
    while path[-1] != start:
        path.append(int(previous[path[-1]]))
    return lumen.centers_mm[path], distance_mm[path]


def _along_mm(points_mm: FloatArray) -> FloatArray:
    """Return how far along the line through `points_mm` [P,3] each of them is, [P]."""
    steps_mm = np.linalg.norm(np.diff(points_mm, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps_mm)])


def _at_steps(points_mm: FloatArray) -> FloatArray:
    """Return points `STEP_MM` apart along the line through `points_mm` [P,3]."""
    along_mm = _along_mm(points_mm)
    wanted_mm = np.arange(int(along_mm[-1] / STEP_MM) + 1) * STEP_MM
    return np.stack([np.interp(wanted_mm, along_mm, axis) for axis in points_mm.T], axis=1)


def _smoothed(points_mm: FloatArray, *, wavelength_mm: float) -> FloatArray:
    """Return the line without its waves shorter than a wavelength, `STEP_MM` apart.

    Of a wave of angular frequency f per mm, a smoothing spline that weighs the squared second
    derivative by w against d points per mm leaves 1 / (1 + (w / d) f^4): half at f^4 = d / w.
    """
    from scipy.interpolate import make_smoothing_spline

    points_mm = _at_steps(points_mm)
    if len(points_mm) < 8:
        return points_mm
    along_mm = np.arange(len(points_mm)) * STEP_MM
    weight = (wavelength_mm / (2 * np.pi)) ** 4 / STEP_MM
    smooth = [make_smoothing_spline(along_mm, axis, lam=weight)(along_mm) for axis in points_mm.T]
    return _at_steps(np.stack(smooth, axis=1))


def _led_on(line_mm: FloatArray, *, mesh: RayMesh, leave_mm: float) -> FloatArray:
    """Lead a line straight on at both ends, until `leave_mm` before the wall or opening."""
    for _ in range(2):
        line_mm = line_mm[::-1]
        back = int(np.searchsorted(_along_mm(line_mm[::-1]), 10.0).clip(1, len(line_mm) - 1))
        ahead = normalised(line_mm[-1] - line_mm[-1 - back])
        hits = mesh.first_hits(line_mm[-1], directions=ahead[None])
        if hits.face[0] != NO_FACE and hits.distance[0] > leave_mm:
            end_mm = line_mm[-1] + (float(hits.distance[0]) - leave_mm) * ahead
            line_mm = np.concatenate([line_mm, end_mm[None]])
    return line_mm


def _frames(line_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return tangents and sides, [S,3]; each side is the one before, made square to the line."""
    tangents = normalised(np.gradient(line_mm, axis=0))
    sides = np.empty_like(tangents)
    side = np.eye(3)[np.abs(tangents[0]).argmin()]
    for row, tangent in enumerate(tangents):
        side = side - (side @ tangent) * tangent
        side /= np.linalg.norm(side)
        sides[row] = side
    return tangents, sides


def _centred(line_mm: FloatArray, *, mesh: RayMesh) -> FloatArray:
    """Move each point [S,3] to the middle of the cut across the tube there."""
    tangents, sides = _frames(line_mm)
    turn = np.arange(NUM_SPOKES) * (2 * np.pi / NUM_SPOKES)
    across = np.stack([sides, np.cross(tangents, sides)], axis=1)
    spokes = np.einsum("ka,sax->skx", np.stack([np.cos(turn), np.sin(turn)], axis=1), across)
    starts = np.repeat(line_mm, NUM_SPOKES, axis=0)
    hits = mesh.first_hits(starts, directions=spokes.reshape(-1, 3))
    reach_mm = hits.distance.astype(np.float64).reshape(len(line_mm), NUM_SPOKES)
    reach_mm[hits.face.reshape(reach_mm.shape) == NO_FACE] = 0.0
    # A ray along a bend or into a pocket says little about the middle.
    reach_mm = np.minimum(reach_mm, 1.5 * np.median(reach_mm, axis=1, keepdims=True))
    # The centroid of a fan of triangles from the point.
    area = np.maximum((reach_mm**2).sum(axis=1), 1e-9)
    shift_mm = 2 / 3 * np.einsum("sk,skx->sx", reach_mm**3, spokes) / area[:, None]
    return np.asarray(line_mm + shift_mm)


def _facing_in(vertices_mm: FloatArray, *, faces: IntArray, lumen: _Lumen) -> IntArray:
    """Return the faces, turned where needed so that their normals look into the lumen.

    Each face stands twice in a graph, as it is (row f) and turned over (row F + f), linked to the
    neighbours that agree with it. The parts of the graph are whole patches of the wall, each in
    both ways; the lumen's place before or behind their faces picks one.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_faces = len(faces)
    edges, edge_of_face = _edges(faces)
    runs_up = faces < np.roll(faces, -1, axis=1)
    order = np.argsort(edge_of_face.ravel(), kind="stable")
    num_at_edge = np.bincount(edge_of_face.ravel(), minlength=len(edges))
    first = (np.cumsum(num_at_edge) - num_at_edge)[num_at_edge == 2]
    one, other = order[first], order[first + 1]
    agree = runs_up.ravel()[one] != runs_up.ravel()[other]
    near, far = one // 3, other // 3 + np.where(agree, 0, num_faces)
    ends = (
        np.concatenate([near, near + num_faces]),
        np.concatenate([far, (far + num_faces) % (2 * num_faces)]),
    )
    links = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(2 * num_faces,) * 2)
    patch = connected_components(links, directed=False)[1]

    weighted = face_normals(vertices_mm, faces=faces)
    reach = 1.5 * VOXEL_MM * normalised(weighted)
    middles = vertices_mm[faces].mean(axis=1)
    before, behind = lumen.contains(middles + reach), lumen.contains(middles - reach)
    vote = np.linalg.norm(weighted, axis=1) * (before.astype(int) - behind.astype(int))
    votes = np.bincount(patch, weights=np.concatenate([vote, -vote]))
    is_turned = votes[patch[:num_faces]] < votes[patch[num_faces:]]
    return np.where(is_turned[:, None], faces[:, ::-1], faces)


def _build(vertices_mm: FloatArray, *, faces: IntArray, line: FloatArray, lumen: _Lumen) -> Tube:
    """Give each vertex its place along and around the line."""
    tangents, sides = _frames(line)
    ups = np.cross(tangents, sides)
    normals = normalised(vertex_normals(vertices_mm, faces=faces))
    station = _stations(vertices_mm, normals=normals, line=line, lumen=lumen)
    to_line = normalised(line[station] - vertices_mm)
    normals = np.where((normals == 0).all(axis=1)[:, None], to_line, normals)

    off_mm = vertices_mm - line[station]
    angle = np.arctan2(
        np.einsum("vx,vx->v", off_mm, ups[station]), np.einsum("vx,vx->v", off_mm, sides[station])
    )
    along_mm = _exact_along_mm(vertices_mm, station=station, line=line, tangents=tangents)
    looks = normalised(face_normals(vertices_mm, faces=faces))
    # Written out instead of `@`: a threaded matrix product need not repeat its last bit.
    looks = np.einsum("fx,ex->fe", looks, tangents[[0, -1]])
    copies = _copies(faces, angle=angle, along_mm=along_mm, looks=looks)
    keys, corners = np.unique(faces * 4 + copies, return_inverse=True)
    vertex, copy = np.divmod(keys, 4)
    around_px = (angle[vertex] / (2 * np.pi) + (copy == 1)) * TILE_PX
    texture = np.stack([around_px, along_mm[vertex] * PX_PER_MM], axis=1)
    for cap, row in ((2, 0), (3, -1)):
        across = np.stack([sides[row], ups[row]])
        flat_mm = np.einsum("vx,ax->va", vertices_mm[vertex] - line[row], across)
        texture = np.where((copy == cap)[:, None], flat_mm * PX_PER_MM, texture)
    return Tube(
        centers_mm=line,
        tangents=tangents,
        sides=sides,
        vertices_mm=vertices_mm[vertex],
        normals=normals[vertex],
        texture_px=texture,
        station=station[vertex].astype(np.int32),
        faces=corners.reshape(-1, 3).astype(np.int32),
        section_names=("mesh",),
        section_ends_mm=(STEP_MM * (len(line) - 1),),
    )


def _stations(
    vertices_mm: FloatArray, *, normals: FloatArray, line: FloatArray, lumen: _Lumen
) -> IntArray:
    """Return the nearest row of the line for each vertex, [V].

    The search starts at the row nearest by a way through the lumen, so that no vertex goes to
    another part of the colon that lies against its own.
    """
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial import cKDTree

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

    def distances_mm(rows: IntArray) -> FloatArray:
        return np.asarray(np.linalg.norm(vertices_mm - line[rows], axis=1))

    nearest_mm = distances_mm(station)
    for step in (16, -16, 8, -8, 4, -4, 2, -2, 1, -1, 1, -1):
        moved = np.clip(station + step, 0, len(line) - 1)
        moved_mm = distances_mm(moved)
        station = np.where(moved_mm < nearest_mm, moved, station)
        nearest_mm = np.minimum(moved_mm, nearest_mm)
    return np.asarray(station)


def _exact_along_mm(
    vertices_mm: FloatArray, *, station: IntArray, line: FloatArray, tangents: FloatArray
) -> FloatArray:
    """Return how far along the line each vertex is, [V], between the rows too.

    The place is where the plane across the line holds the vertex; how far the vertex is before
    the planes of two neighbouring rows says where between them.
    """

    def before_mm(rows: IntArray) -> FloatArray:
        return np.asarray(np.einsum("vx,vx->v", vertices_mm - line[rows], tangents[rows]))

    here = before_mm(station)
    other = np.clip(station + np.where(here > 0, 1, -1), 0, len(line) - 1)
    there = before_mm(other)
    gap = np.abs(here) + np.abs(there)
    share = np.clip(np.abs(here) / np.where(gap > 0, gap, 1), 0, 1)
    return np.asarray((station + share * (other - station)) * STEP_MM, dtype=np.float64)


def _copies(
    faces: IntArray, *, angle: FloatArray, along_mm: FloatArray, looks: FloatArray
) -> IntArray:
    """Return which copy of its vertex each corner [F,3] takes, for a texture without jumps.

    0 is the vertex itself and 1 the same one turn further, for faces across the seam. Where the
    tube closes all turns run together, so there the texture lies flat: 2 at the line's start and
    3 at its end.

    Args:
        faces: [F,3].
        angle: [V] around the line.
        along_mm: [V] along the line.
        looks: [F,2] cosines of faces and line at its start and end.
    """
    around = angle[faces]
    wraps = np.ptp(around, axis=1) > np.pi
    copies = (wraps[:, None] & (around < 0)).astype(np.intp)
    unwrapped = around + 2 * np.pi * copies
    place_mm = along_mm[faces].mean(axis=1)
    from_end_mm = along_mm.max() - place_mm
    runs_together = np.ptp(unwrapped, axis=1) > np.pi / 2
    is_start = (place_mm < MIN_RADIUS_MM) & (looks[:, 0] > CAP_COSINE)
    is_end = (from_end_mm < MIN_RADIUS_MM) & (looks[:, 1] < -CAP_COSINE)
    copies[is_start | (runs_together & (place_mm <= from_end_mm))] = 2
    copies[is_end | (runs_together & (place_mm > from_end_mm))] = 3
    return np.asarray(copies)
