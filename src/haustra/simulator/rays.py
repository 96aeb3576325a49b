"""Triangle meshes and the rays that meet them, with Embree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import needs_extra

NO_FACE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """The first face that each of N rays meets."""

    face: NDArray[np.int32]
    """[N] index into the mesh's faces, `NO_FACE` where the ray meets nothing."""
    distance: NDArray[np.float32]
    """[N] in lengths of the ray's direction, where `face` is not `NO_FACE`."""
    barycentric: NDArray[np.float32]  # [N,2] weights of the face's second and third corner


class RayMesh:
    """A triangle mesh for rays, from vertices [V,3] and faces [F,3].

    Raises:
        MissingExtraError: embreex is not installed.
    """

    def __init__(self, vertices_mm: NDArray[np.floating], *, faces: NDArray[np.integer]) -> None:
        with needs_extra("simulate", needed_for="the simulator"):
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        TriangleMesh(
            self._scene,
            np.ascontiguousarray(vertices_mm, dtype=np.float32),
            np.ascontiguousarray(faces, dtype=np.int32),
        )

    def first_hits(
        self, origins_mm: NDArray[np.floating], *, directions: NDArray[np.floating]
    ) -> Hits:
        """Cast rays from `origins_mm` [3] or [N,3] along `directions` [N,3] of any length."""
        directions = np.ascontiguousarray(directions, dtype=np.float32)
        origins = np.ascontiguousarray(
            np.broadcast_to(origins_mm, directions.shape), dtype=np.float32
        )
        found = self._scene.run(origins, directions, output=1)
        return Hits(
            face=found["primID"],
            distance=found["tfar"],
            barycentric=np.stack([found["u"], found["v"]], axis=1),
        )


def face_normals(
    vertices_mm: NDArray[np.floating], *, faces: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return right-handed normals of faces, [F,3]; their length is twice the face's area."""
    corners = np.asarray(vertices_mm, dtype=np.float64)[faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def vertex_normals(
    vertices_mm: NDArray[np.floating], *, faces: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the area-weighted sum of the normals around each vertex, [V,3]."""
    weighted = np.repeat(face_normals(vertices_mm, faces=faces), 3, axis=0)
    return np.stack(
        [
            np.bincount(faces.ravel(), weights=weighted[:, axis], minlength=len(vertices_mm))
            for axis in range(3)
        ],
        axis=1,
    )


def normalized(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `vectors` [...,3] at unit length; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def dots(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return the dot product of each row of `one` [N,D] with that of `other` [N,D] or [D], [N]."""
    return np.asarray(np.einsum("ij,ij->i", one, np.broadcast_to(other, one.shape)))


def rotated(
    one: NDArray[Any], other: NDArray[Any], *, angle: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two orthogonal axes, or the positions along them, turned by radians in their plane."""
    cos, sin = (one.dtype.type(part) for part in (np.cos(angle), np.sin(angle)))
    return cos * one + sin * other, cos * other - sin * one


def grid_faces(num_rows: int, *, num_columns: int, wraps: bool) -> NDArray[np.int32]:
    """Return the [F,3] faces of a grid of vertices stored row by row.

    The right-handed normals point along (next column) x (next row). With `wraps` the last column
    connects to the first.
    """
    columns = np.arange(num_columns if wraps else num_columns - 1)
    near = np.arange(num_rows - 1)[:, None] * num_columns + columns
    beside = np.arange(num_rows - 1)[:, None] * num_columns + (columns + 1) % num_columns
    upper = np.stack([near, beside, beside + num_columns], axis=-1)
    lower = np.stack([near, beside + num_columns, near + num_columns], axis=-1)
    return np.concatenate([upper.reshape(-1, 3), lower.reshape(-1, 3)]).astype(np.int32)
