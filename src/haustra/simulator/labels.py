"""Labels from geometry: what a view shows of each polyp. Brightness and texture play no part."""

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.simulator.camera import Camera, Pose
from haustra.simulator.polyps import Polyp
from haustra.simulator.rays import NO_FACE
from haustra.simulator.render import NOTHING, View
from haustra.simulator.scene import Scene

MAX_RAYS_ALONE = 8192
"""Of a polyp whose window has more pixels, every other row and column is counted."""
NEAR_MM = 2.0
"""Nearer than this a polyp may surround the camera."""


def label_view(
    scene: Scene,
    *,
    view: View,
    run_id: str,
    min_visible_pixels: int,
    hidden: NDArray[np.bool_] | None = None,
) -> list[PolypTruth]:
    """Return a label for each polyp that shows enough pixels.

    The box bounds the pixels that show the polyp, in one box also where a fold splits them.

    `visible_fraction` is the number of those pixels over the number that the polyp's exposed
    surface (all above its rim on the wall) would cover in this image if nothing else existed. What
    lies outside the image counts in neither.

    Args:
        scene: what was cast.
        view: what each pixel meets.
        run_id: first part of the lesion ids.
        min_visible_pixels: fewer than this and a polyp is left out.
        hidden: [size,size] pixels that something not in the scene covers, e.g. an instrument.
    """
    instance = visible_instance(view, hidden=hidden)
    labels = []
    for number, polyp in enumerate(scene.polyps, start=1):
        visible = instance == number
        num_visible = int(visible.sum())
        if num_visible < min_visible_pixels:
            continue
        fraction = _visible_fraction(scene, visible=visible, number=number, view=view)
        x, y, z = (float(value) for value in polyp.center_mm.round(3))
        labels.append(
            PolypTruth(
                bbox_px=mask_bounds(visible),
                lesion_id=f"{run_id}/polyp_{number}",
                center_world=(x, y, z),
                visible_fraction=round(fraction, 4),
                size_mm=round(polyp.size_mm, 2),
                paris_class=polyp.paris_class,
            )
        )
    return labels


def visible_instance(view: View, *, hidden: NDArray[np.bool_] | None) -> NDArray[np.int16]:
    """Return what each pixel shows, [size,size], `NOTHING` where it is hidden."""
    if hidden is None:
        return view.instance
    return np.where(hidden, np.int16(NOTHING), view.instance)


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return `x0,y0,x1,y1` around the set pixels of a mask [H,W] that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _visible_fraction(
    scene: Scene, *, visible: NDArray[np.bool_], number: int, view: View
) -> float:
    """Return visible pixels over those of the polyp alone; where it is large, of every other."""
    window = _window(scene.polyps[number - 1], camera=view.camera, pose=view.pose)
    size = visible[window].size
    step = 1 if size <= MAX_RAYS_ALONE else 2
    pixels = tuple(slice(part.start, part.stop, step) for part in window)
    alone = pixels_alone(scene, number=number, camera=view.camera, pose=view.pose, pixels=pixels)
    # Where rim and wall cross inside a pixel the polyp may show one pixel more.
    return min(1.0, int(visible[pixels].sum()) / max(alone, 1))


def pixels_alone(
    scene: Scene, *, number: int, camera: Camera, pose: Pose, pixels: tuple[slice, ...] = ()
) -> int:
    """Return how many `pixels` the exposed surface of polyp instance `number` covers by itself."""
    directions = camera.directions.reshape(camera.size_px, camera.size_px, 3)[pixels]
    rays = pose.to_world(directions[camera.mask[pixels]])
    if not len(rays):
        return 0
    hits = scene.exposed_meshes[number - 1].first_hits(pose.position_mm, directions=rays)
    return int((hits.face != NO_FACE).sum())


def _window(polyp: Polyp, *, camera: Camera, pose: Pose) -> tuple[slice, slice]:
    """Return the rows and columns of the image that a polyp can cover; saves rays."""
    everything = slice(0, camera.size_px)
    points = pose.to_camera(polyp.vertices_mm)
    pixels = camera.project(points)
    # Around what is near, or straight behind a fisheye, no box of corners holds the surface.
    near = np.linalg.norm(points, axis=1).min() < NEAR_MM
    behind = (points[:, 2] < -np.hypot(points[:, 0], points[:, 1])).any()
    if near or behind or np.isnan(pixels).any():
        return everything, everything
    slices = []
    for across in (pixels[:, 1], pixels[:, 0]):
        first, last = np.clip([across.min() - 2, across.max() + 3], 0, camera.size_px).astype(int)
        slices.append(slice(int(first), int(last)))
    return slices[0], slices[1]
