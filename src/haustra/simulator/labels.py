"""Labels from geometry: the visible part of each polyp, whatever its brightness and texture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.simulator.camera import Camera, Pose
from haustra.simulator.canvas import WHOLE, Window, window_around
from haustra.simulator.polyps import Polyp
from haustra.simulator.rays import NO_FACE
from haustra.simulator.render import NOTHING, View

MAX_RAYS_ALONE = 8192
"""In windows with more pixels than this, only every other row and column is counted."""
NEAR_MM = 2.0  # a polyp that is closer than this may surround the camera


def label_view(
    view: View, *, run_id: str, min_visible_pixels: int, hidden: NDArray[np.bool_] | bool = False
) -> list[PolypTruth]:
    """Return a label for each polyp with enough visible pixels.

    One box bounds all visible pixels of a polyp, also where a fold splits them. `visible_fraction`
    is their number over the number of pixels that the exposed surface (everything above the rim)
    would cover in this image if nothing else existed.

    Args:
        hidden: [size,size] pixels covered by something outside the scene, such as an instrument.
    """
    instance = visible_instance(view, hidden=hidden)
    labels = []
    for number, polyp in enumerate(view.scene.polyps, start=1):
        visible = instance == number
        if visible.sum() < min_visible_pixels:
            continue
        fraction = _visible_fraction(view, visible=visible, number=number)
        x, y, z = polyp.center_mm.round(3).tolist()
        left, top, width, height = cv2.boundingRect(visible.view(np.uint8))
        labels.append(
            PolypTruth(
                bbox_px=(float(left), float(top), float(left + width), float(top + height)),
                lesion_id=f"{run_id}/polyp_{number}",
                center_world=(x, y, z),
                visible_fraction=round(fraction, 4),
                size_mm=round(polyp.size_mm, 2),
                paris_class=polyp.paris_class,
            )
        )
    return labels


def visible_instance(view: View, *, hidden: NDArray[np.bool_] | bool) -> NDArray[np.int16]:
    """Return the visible instance of each pixel, [size,size]; `NOTHING` where it is hidden."""
    return np.where(hidden, np.int16(NOTHING), view.instance)


def _visible_fraction(view: View, *, visible: NDArray[np.bool_], number: int) -> float:
    """Return the visible share of a polyp's pixels; large polyps are sampled."""
    rows, columns = _window(view.scene.polyps[number - 1], camera=view.camera, pose=view.pose)
    step = 1 if visible[rows, columns].size <= MAX_RAYS_ALONE else 2
    pixels = (slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step))
    alone = pixels_alone(view, number=number, pixels=pixels)
    # A polyp may cover one more pixel than alone where rim and wall cross inside it.
    return min(1.0, int(visible[pixels].sum()) / max(alone, 1))


def pixels_alone(view: View, *, number: int, pixels: tuple[slice, ...] = ()) -> int:
    """Return the number of `pixels` that the exposed surface of a polyp alone covers."""
    camera, pose = view.camera, view.pose
    directions = camera.directions.reshape(camera.size_px, camera.size_px, 3)[pixels]
    rays = pose.to_world(directions[camera.mask[pixels]])
    if not len(rays):
        return 0
    hits = view.scene.exposed_meshes[number - 1].first_hits(pose.position_mm, directions=rays)
    return int((hits.face != NO_FACE).sum())


def _window(polyp: Polyp, *, camera: Camera, pose: Pose) -> Window:
    """Return the part of the image that a polyp can cover, to cast fewer rays."""
    points = pose.to_camera(polyp.vertices_mm)
    pixels = camera.project(points)
    # The projected vertices of a near polyp, or of one behind a fisheye, do not bound it.
    near = np.linalg.norm(points, axis=1).min() < NEAR_MM
    behind = (points[:, 2] < -np.hypot(points[:, 0], points[:, 1])).any()
    if near or behind or np.isnan(pixels).any():
        return WHOLE
    return window_around(pixels, margin_px=2, size_px=camera.size_px)
