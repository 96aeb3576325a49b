"""A user's own colon: a mesh file in millimeters becomes the `Tube` that `build_tube` makes.

The mesh may be open at its ends or closed, and its faces may point either way. Its edges are
halved until polyps can grow anywhere, `lumen` finds the line through its inside, and that line
gives every vertex its place. Holes are not repaired: a ray that leaves through one meets nothing.
"""

from pathlib import Path

import numpy as np
import trimesh
from trimesh.geometry import faces_to_edges
from trimesh.graph import connected_component_labels, face_adjacency
from trimesh.grouping import unique_rows

from haustra.core.errors import HaustraError
from haustra.core.paths import StrPath, to_path
from haustra.simulator.lumen import (
    MAX_OTHER_SHARE,
    MIN_FREE_MM,
    VOXEL_MM,
    IntArray,
    Lumen,
    find_centerline,
    find_lumen,
    frames_along,
    nearest_stations,
)
from haustra.simulator.noise import FloatArray
from haustra.simulator.rays import RayMesh, dots, face_normals, normalized, vertex_normals
from haustra.simulator.tube import MIN_RADIUS_MM, PX_PER_MM, STEP_MM, TILE_PX, Tube

SUFFIXES = (".glb", ".obj", ".ply", ".stl")
MAX_FACES = 1_500_000  # largest number of faces of the wall after its long edges are halved
MAX_EDGE_MM = 1.5
MAX_VOXELS = 60_000_000
MIN_LENGTH_MM = 60.0
CAP_COSINE = 0.7
"""A face near an end is part of the end's cap if its normal is this close to the line."""


def load_mesh_tube(path: StrPath) -> Tube:
    """Read a colon's wall from a .glb, .obj, .ply or .stl file and find the line through its lumen.

    The unit is the millimeter, also in glTF, whose own unit is the meter. Only the shape is read,
    not materials or textures. The largest connected part is the wall. The centerline starts at the
    narrower end, which is the rectum's in a whole colon.

    Raises:
        HaustraError: The file is missing, unreadable or too large, or holds no lumen that a
            camera could pass.
    """
    path = to_path(path)
    vertices, faces = _read_mesh(path)
    size_mm = np.ptp(vertices, axis=0)
    size_text = " x ".join(f"{side:.1f}" for side in size_mm) + " mm"
    if np.prod(size_mm / VOXEL_MM + 4) > MAX_VOXELS:
        raise HaustraError(
            f"{path} measures {size_text}, expected the size of a colon in millimeters; scale it"
        )
    vertices, faces = _subdivided(vertices, faces=faces, path=path)
    cap_vertices, cap_faces = _caps(vertices, faces=faces)
    cap_vertices, cap_faces = _subdivided(cap_vertices, faces=cap_faces, path=path)
    lumen = find_lumen(vertices, caps_mm=cap_vertices, path=path)
    line, free_mm = np.zeros((1, 3)), 0.0
    if lumen is not None:
        capped = RayMesh(
            np.concatenate([vertices, cap_vertices]),
            faces=np.concatenate([faces, cap_faces + len(vertices)]),
        )
        line, free_mm = find_centerline(lumen, wall_mm=vertices, capped=capped)
    length_mm = STEP_MM * (len(line) - 1)
    if lumen is None or length_mm < MIN_LENGTH_MM or free_mm < MIN_FREE_MM:
        raise HaustraError(
            f"{path} holds no lumen that a camera can pass: the line through it is "
            f"{length_mm:.0f} mm long with {free_mm:.1f} mm free around it, expected at least "
            f"{MIN_LENGTH_MM:.0f} mm and {MIN_FREE_MM:.0f} mm; the mesh is {size_text}: check "
            "that its unit is the millimeter (scale one in meters by 1000)"
        )
    faces = _facing_in(vertices, faces=faces, lumen=lumen)
    return _build(vertices, faces=faces, line=line, lumen=lumen)


def _read_mesh(path: Path) -> tuple[FloatArray, IntArray]:
    """Return the vertices [V,3] and faces [F,3] of a file's largest part, checked."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise HaustraError(
            f"{path} has the suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}; export the "
            "mesh in one of these formats"
        )
    if not path.is_file():
        raise HaustraError(f"{path} does not exist; expected a mesh file; correct the path")
    unreadable = f"{path} cannot be read as {suffix}; expected a mesh; export it again"
    try:
        mesh = trimesh.load_mesh(path, process=False, skip_materials=True)
        vertices = np.array(mesh.vertices, dtype=np.float64)
        faces = np.array(mesh.faces, dtype=np.intp)
    except Exception as error:  # the parsers raise any exception on a damaged file
        raise HaustraError(unreadable) from error
    # A damaged binary STL is read as text, which has no faces; a whole one has some.
    is_damaged = suffix == ".stl" and not len(faces)
    if is_damaged or faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(vertices):
        raise HaustraError(unreadable)
    if number := int((~np.isfinite(vertices).all(axis=-1)).sum()):
        raise HaustraError(
            f"{path} has {number} vertices that are not finite; expected numbers in millimeters; "
            "export the mesh again"
        )
    if len(faces):
        vertices, faces = _merged(vertices, faces=faces)
    if len(faces) == 0:
        raise HaustraError(
            f"{path} has no faces; expected a mesh of triangles; export a surface, not points"
        )
    return _largest_part(vertices, faces=faces, path=path)


def _merged(vertices_mm: FloatArray, *, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Merge vertices at one place; drop repeated faces and those without area.

    trimesh merges at a fixed distance and orders the vertices by a hash; this order is the one
    that polyps are drawn by.
    """
    lowest = vertices_mm.min(axis=0)
    extent = max(float((vertices_mm - lowest).max()), 1e-9)
    place = np.round((vertices_mm - lowest) / extent * 2**20).astype(np.int64)
    keys = (place[:, 0] << 42) | (place[:, 1] << 21) | place[:, 2]
    _, kept, number = np.unique(keys, return_index=True, return_inverse=True)
    faces = number[faces]
    corners = np.sort(faces, axis=1)
    faces = faces[(np.diff(corners, axis=1) > 0).all(axis=1)]
    return vertices_mm[kept], faces[np.sort(unique_rows(np.sort(faces, axis=1))[0])]


def _largest_part(
    vertices_mm: FloatArray, *, faces: IntArray, path: Path
) -> tuple[FloatArray, IntArray]:
    labels = connected_component_labels(faces_to_edges(faces), node_count=len(vertices_mm))
    part = labels[faces[:, 0]]
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
    """Return the edges [E,2], lower vertex first and sorted, and those of each face, [F,3]."""
    edges = np.sort(faces_to_edges(faces), axis=1)
    first, number = unique_rows(edges[:, ::-1])  # sorts by the last column first
    return edges[first], number.reshape(-1, 3)


def _subdivided(
    vertices_mm: FloatArray, *, faces: IntArray, path: Path
) -> tuple[FloatArray, IntArray]:
    """Halve edges longer than `MAX_EDGE_MM` until there are none; faces keep sharing vertices.

    `trimesh.remesh.subdivide_to_size` splits each face on its own, which opens gaps.
    """
    while True:
        if len(faces) > MAX_FACES:
            raise HaustraError(
                f"{path} comes to {len(faces)} faces or more with edges of at most "
                f"{MAX_EDGE_MM:g} mm, expected at most {MAX_FACES}; give it fewer faces or "
                "less uneven ones, or scale it if its unit is not the millimeter"
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
    # Rotate the corners so that one halved edge comes first, and two come first and second.
    first = np.where(num_halved == 1, halved.argmax(axis=1), (halved.argmin(axis=1) + 1) % 3)
    turned = (first[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(faces, turned, axis=1).T
    ab, bc, ca = np.take_along_axis(middle, turned, axis=1).T
    to_bc_mm, to_c_mm = (
        np.linalg.norm(vertices_mm[p] - vertices_mm[q], axis=1) for p, q in ((a, bc), (ab, c))
    )
    one, two, three = (num_halved == number for number in (1, 2, 3))
    is_shorter = to_bc_mm <= to_c_mm
    pieces = [
        (num_halved == 0, [(a, b, c)]),
        (one, [(a, ab, c), (ab, b, c)]),
        (two & is_shorter, [(ab, b, bc), (a, ab, bc), (a, bc, c)]),
        (two & ~is_shorter, [(ab, b, bc), (a, ab, c), (ab, bc, c)]),
        (three, [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]),
    ]
    return np.concatenate(
        [np.stack(corners, axis=1)[rows] for rows, split in pieces for corners in split]
    )


def _caps(vertices_mm: FloatArray, *, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Close each opening with a fan from its middle; return the fans' vertices and faces."""
    edges, edge_of_face = _edges(faces)
    used, rim = np.unique(edges[np.bincount(edge_of_face.ravel()) == 1], return_inverse=True)
    rim = rim.reshape(-1, 2)
    opening = connected_component_labels(rim, node_count=len(used))
    rim_mm = vertices_mm[used]
    middles_mm = [rim_mm[opening == number].mean(axis=0) for number in np.unique(opening)]
    fans = np.column_stack([rim, len(used) + opening[rim[:, 0]]])
    return np.concatenate([rim_mm, np.reshape(middles_mm, (-1, 3))]), fans


def _facing_in(vertices_mm: FloatArray, *, faces: IntArray, lumen: Lumen) -> IntArray:
    """Return the faces, flipped where needed so that their normals point into the lumen.

    Each face is in a graph twice, as it is (row f) and flipped (row F + f), linked to the
    neighbors that agree with it. The connected parts of the graph are whole patches of the wall,
    each in both orientations. The side of their faces on which the lumen lies selects one.
    """
    num_faces = len(faces)
    pairs, shared = face_adjacency(faces, return_edges=True)  # edges of exactly two faces
    starts, ends = faces[pairs], np.roll(faces, -1, axis=1)[pairs]
    runs_up = ((starts == shared[:, None, :1]) & (ends == shared[:, None, 1:])).any(axis=2)
    agree = runs_up[:, 0] != runs_up[:, 1]
    near, far = pairs[:, 0], pairs[:, 1] + np.where(agree, 0, num_faces)
    flipped = np.stack([near + num_faces, (far + num_faces) % (2 * num_faces)], axis=1)
    links = np.concatenate([np.stack([near, far], axis=1), flipped])
    patch = connected_component_labels(links, node_count=2 * num_faces)

    weighted = face_normals(vertices_mm, faces=faces)
    reach = 1.5 * VOXEL_MM * normalized(weighted)
    middles = vertices_mm[faces].mean(axis=1)
    before, behind = lumen.contains(middles + reach), lumen.contains(middles - reach)
    vote = np.linalg.norm(weighted, axis=1) * (before.astype(int) - behind.astype(int))
    votes = np.bincount(patch, weights=np.concatenate([vote, -vote]))
    is_flipped = votes[patch[:num_faces]] < votes[patch[num_faces:]]
    return np.where(is_flipped[:, None], faces[:, ::-1], faces)


def _build(vertices_mm: FloatArray, *, faces: IntArray, line: FloatArray, lumen: Lumen) -> Tube:
    """Give each vertex its place along and around the line."""
    tangents, sides = frames_along(line)
    ups = np.cross(tangents, sides)
    normals = normalized(vertex_normals(vertices_mm, faces=faces))
    station = nearest_stations(vertices_mm, normals=normals, line=line, lumen=lumen)
    to_line = normalized(line[station] - vertices_mm)
    normals = np.where((normals == 0).all(axis=1)[:, None], to_line, normals)

    off_mm = vertices_mm - line[station]
    angle = np.arctan2(dots(off_mm, ups[station]), dots(off_mm, sides[station]))
    along_mm = _exact_along_mm(vertices_mm, station=station, line=line, tangents=tangents)
    looks = normalized(face_normals(vertices_mm, faces=faces))
    # Not `@`: a threaded matrix product may differ in its last bit from run to run.
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
    )


def _exact_along_mm(
    vertices_mm: FloatArray, *, station: IntArray, line: FloatArray, tangents: FloatArray
) -> FloatArray:
    """Return the position of each vertex along the line, [V], also between its rows.

    A vertex lies between the planes across the line at two neighboring rows; its distances from
    the two planes give its position between them.
    """
    here = dots(vertices_mm - line[station], tangents[station])
    other = np.clip(station + np.where(here > 0, 1, -1), 0, len(line) - 1)
    there = dots(vertices_mm - line[other], tangents[other])
    gap = np.abs(here) + np.abs(there)
    share = np.clip(np.abs(here) / np.where(gap > 0, gap, 1), 0, 1)
    return np.asarray((station + share * (other - station)) * STEP_MM, dtype=np.float64)


def _copies(
    faces: IntArray, *, angle: FloatArray, along_mm: FloatArray, looks: FloatArray
) -> IntArray:
    """Return which copy of its vertex each corner [F,3] uses, for a texture without jumps.

    Copy 0 is the vertex itself, and copy 1 is one turn further, for faces across the seam. The
    texture lies flat where the tube closes: copy 2 at the line's start and copy 3 at its end.
    `angle` and `along_mm` [V] are the vertices' places; `looks` [F,2] are the cosines between the
    faces' normals and the line at its start and end.
    """
    around = angle[faces]
    wraps = np.ptp(around, axis=1) > np.pi
    copies = (wraps[:, None] & (around < 0)).astype(np.intp)
    unwrapped = around + 2 * np.pi * copies
    place_mm = along_mm[faces].mean(axis=1)
    from_end_mm = along_mm.max() - place_mm
    is_narrow = np.ptp(unwrapped, axis=1) > np.pi / 2
    is_start = (place_mm < MIN_RADIUS_MM) & (looks[:, 0] > CAP_COSINE)
    is_end = (from_end_mm < MIN_RADIUS_MM) & (looks[:, 1] < -CAP_COSINE)
    copies[is_start | (is_narrow & (place_mm <= from_end_mm))] = 2
    copies[is_end | (is_narrow & (place_mm > from_end_mm))] = 3
    return np.asarray(copies)
