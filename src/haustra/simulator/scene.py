"""One colon with its polyps and textures, as a mesh for rays. It has no camera and no light."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from haustra.simulator.noise import FloatArray
from haustra.simulator.polyps import NUM_SEGMENTS, SIZE_MM, Polyp, Sizes, place_polyps
from haustra.simulator.rays import RayMesh, dots, normalized, vertex_normals
from haustra.simulator.surface import Surface, build_surface
from haustra.simulator.tube import PX_PER_MM, Tube

WALL = 0  # instance number of the wall; polyp i of the scene is instance i + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A wall and polyps in one mesh. Get one from `build_scene` or `assemble_scene`."""

    tube: Tube
    polyps: list[Polyp]
    surface: Surface
    vertices_mm: NDArray[np.float32]  # [V,3]
    attributes: NDArray[np.float32]
    """[V,6] per vertex: unit normal into the lumen (3), texture position in texels (2), and share
    of the polyp's own texture, 0..1 (1)."""
    faces: NDArray[np.int32]  # [F,3]
    face_instance: NDArray[np.int16]  # [F] `WALL` or a polyp's instance number

    @cached_property
    def mesh(self) -> RayMesh:
        """The whole scene for rays."""
        return RayMesh(self.vertices_mm, faces=self.faces)

    @cached_property
    def exposed_meshes(self) -> list[RayMesh]:
        """Each polyp's exposed surface alone, for rays."""
        return [RayMesh(p.vertices_mm, faces=p.exposed_faces) for p in self.polyps]

    def free_distance_mm(self, position_mm: FloatArray) -> float:
        """Return the distance from a position to the nearest vertex."""
        apart = self.vertices_mm - position_mm.astype(np.float32)
        return float(np.sqrt(dots(apart, apart).min()))


def build_scene(
    tube: Tube,
    *,
    num_polyps: int,
    sizes: Sizes,
    size_mm: tuple[float, float] = SIZE_MM,
    with_vessels: bool = True,
    rng: np.random.Generator,
) -> Scene:
    """Place polyps on a tube, as `place_polyps` does, and draw the textures."""
    polyp_rng, surface_rng = rng.spawn(2)
    polyps = place_polyps(tube, num_polyps=num_polyps, sizes=sizes, size_mm=size_mm, rng=polyp_rng)
    surface = build_surface(num_polyps=num_polyps, with_vessels=with_vessels, rng=surface_rng)
    return assemble_scene(tube, polyps=polyps, surface=surface)


def assemble_scene(tube: Tube, *, polyps: list[Polyp], surface: Surface) -> Scene:
    """Join a wall and polyps; `surface` has a tint for each polyp."""
    vertices, faces = [tube.vertices_mm], [tube.faces]
    bare = np.zeros((len(tube.vertices_mm), 1))
    attributes = [np.concatenate([tube.normals, tube.texture_px, bare], axis=1)]
    instances = [np.full(len(tube.faces), WALL)]
    offset = len(tube.vertices_mm)
    for number, polyp in enumerate(polyps, start=1):
        normals = normalized(vertex_normals(polyp.vertices_mm, faces=polyp.faces))
        # All vertices of the first row are at the apex.
        normals[:NUM_SEGMENTS] = normalized(normals[:NUM_SEGMENTS].mean(axis=0))
        # Each polyp uses another part of the tile.
        patch_px = polyp.surface_mm * PX_PER_MM + [number * 311.0, number * 577.0]
        rise = polyp.rise[:, None]
        normals = normalized(rise * normals + (1 - rise) * polyp.wall_normals)
        vertices.append(polyp.vertices_mm)
        attributes.append(np.concatenate([normals, patch_px, polyp.own_look * rise], axis=1))
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
