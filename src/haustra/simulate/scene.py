"""One colon with its polyps and its looks, ready for rays: pure geometry, no camera, no light."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from haustra.simulate.polyps import NUM_SEGMENTS, Polyp, place_polyps
from haustra.simulate.rays import RayMesh, normalised, vertex_normals
from haustra.simulate.surface import PX_PER_MM, TILE_PX, Surface, build_surface
from haustra.simulate.tube import MIN_RADIUS_MM, NUM_COLUMNS, STEP_MM, Tube, build_tube

WALL = 0
"""Instance number of the wall; polyp i of the scene is instance i + 1."""
CAP_ROWS = round(MIN_RADIUS_MM / STEP_MM)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A wall and polyps in one mesh. Get one from `build_scene` or `assemble_scene`."""

    tube: Tube
    polyps: list[Polyp]
    surface: Surface
    vertices_mm: NDArray[np.float32]
    """[V,3]."""
    attributes: NDArray[np.float32]
    """[V,5] per vertex: unit normal into the lumen (3), texture position in texels (2)."""
    faces: NDArray[np.int32]
    """[F,3]."""
    face_instance: NDArray[np.int16]
    """[F] `WALL` or the polyp's instance number."""

    @cached_property
    def mesh(self) -> RayMesh:
        """The whole scene for rays."""
        return RayMesh(self.vertices_mm, faces=self.faces)

    @cached_property
    def exposed_meshes(self) -> list[RayMesh]:
        """Each polyp's exposed surface alone, for rays."""
        return [RayMesh(p.vertices_mm, faces=p.exposed_faces) for p in self.polyps]


def build_scene(seed: int, *, num_polyps: int) -> Scene:
    """Make the colon of a seed.

    Args:
        seed: fixes everything; scenes of different seeds differ everywhere.
        num_polyps: how many polyps grow on its wall.

    Raises:
        MissingExtraError: embreex is not installed.
    """
    tube_rng, polyp_rng, surface_rng = np.random.default_rng([seed, 0]).spawn(3)
    tube = build_tube(tube_rng)
    polyps = place_polyps(tube, num_polyps=num_polyps, rng=polyp_rng)
    surface = build_surface(num_polyps=num_polyps, rng=surface_rng)
    return assemble_scene(tube, polyps=polyps, surface=surface)


def assemble_scene(tube: Tube, *, polyps: list[Polyp], surface: Surface) -> Scene:
    """Join a wall and polyps; `surface` has tints for at least as many polyps."""
    columns = NUM_COLUMNS + 1
    row, column = np.divmod(np.arange(len(tube.vertices_mm)), columns)
    wall_px = np.stack([column * (TILE_PX / NUM_COLUMNS), row * (STEP_MM * PX_PER_MM)], axis=1)
    # Around the closed far end columns run together; textures lie flat over it instead.
    cap = slice(-CAP_ROWS * columns, None)
    turn = column[cap] * (2 * np.pi / NUM_COLUMNS)
    to_end_px = PX_PER_MM * np.linalg.norm(tube.vertices_mm[cap] - tube.vertices_mm[-1], axis=1)
    wall_px[cap] = np.stack([to_end_px * np.cos(turn), to_end_px * np.sin(turn)], axis=1)
    vertices, faces = [tube.vertices_mm], [tube.faces]
    attributes = [np.concatenate([tube.normals, wall_px], axis=1)]
    instances = [np.full(len(tube.faces), WALL)]
    offset = len(tube.vertices_mm)
    for number, polyp in enumerate(polyps, start=1):
        normals = normalised(vertex_normals(polyp.vertices_mm, faces=polyp.faces))
        # All vertices of the first row stand on the apex.
        normals[:NUM_SEGMENTS] = normalised(normals[:NUM_SEGMENTS].mean(axis=0))
        # Each polyp takes its texture from another place of the tile.
        patch_px = polyp.surface_mm * PX_PER_MM + [number * 311.0, number * 577.0]
        vertices.append(polyp.vertices_mm)
        attributes.append(np.concatenate([normals, patch_px], axis=1))
        faces.append(polyp.faces + offset)
        instances.append(np.full(len(polyp.faces), number))
        offset += len(polyp.vertices_mm)
    return Scene(
        tube=tube,
        polyps=polyps,
        surface=surface,
        vertices_mm=np.concatenate(vertices).astype(np.float32),
        attributes=np.concatenate(attributes).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        face_instance=np.concatenate(instances).astype(np.int16),
    )
