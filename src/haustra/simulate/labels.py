"""Labels from geometry: what a view shows of each polyp. Brightness and texture play no part."""

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.simulate.camera import Camera, Pose
from haustra.simulate.polyps import Polyp
from haustra.simulate.rays import NO_FACE
from haustra.simulate.render import View
from haustra.simulate.scene import Scene

NEAR_MM = 0.5


def label_view(
    scene: Scene, *, view: View, run_id: str, min_visible_pixels: int
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
    """
    labels = []
    for number, polyp in enumerate(scene.polyps, start=1):
        visible = view.instance == number
        num_visible = int(visible.sum())
        if num_visible < min_visible_pixels:
            continue
        num_alone = count_pixels_alone(scene, number=number, camera=view.camera, pose=view.pose)
        x, y, z = (float(value) for value in polyp.center_mm.round(3))
        labels.append(
            PolypTruth(
                bbox_px=mask_bounds(visible),
                lesion_id=f"{run_id}/polyp_{number}",
                center_world=(x, y, z),
                # Where rim and wall cross inside a pixel the polyp may show one pixel more.
                visible_fraction=round(min(1.0, num_visible / max(num_alone, 1)), 4),
                size_mm=round(polyp.size_mm, 2),
                paris_class=polyp.paris_class,
            )
        )
    return labels


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return `x0,y0,x1,y1` around the set pixels of a mask [H,W] that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def count_pixels_alone(scene: Scene, *, number: int, camera: Camera, pose: Pose) -> int:
    """Return how many pixels the exposed surface of polyp instance `number` covers by itself."""
    window = _window(scene.polyps[number - 1], camera=camera, pose=pose)
    directions = camera.directions.reshape(camera.size_px, camera.size_px, 3)[window]
    hits = scene.exposed_meshes[number - 1].first_hits(
        pose.position_mm, directions=directions.reshape(-1, 3) @ pose.axes.astype(np.float32)
    )
    return int((hits.face != NO_FACE).sum())


def _window(polyp: Polyp, *, camera: Camera, pose: Pose) -> tuple[slice, slice]:
    """Return the rows and columns of the image that a polyp can cover; saves rays."""
    right, down, ahead = pose.to_camera(polyp.vertices_mm).T
    if ahead.min() < NEAR_MM:
        return slice(None), slice(None)
    slices = []
    for across in (down, right):
        pixels = across / ahead * camera.focal_px + camera.size_px / 2
        first, last = np.clip([pixels.min() - 1, pixels.max() + 2], 0, camera.size_px).astype(int)
        slices.append(slice(int(first), int(last)))
    return slices[0], slices[1]
