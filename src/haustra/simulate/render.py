"""From a scene and a pose to what each pixel meets, and from that to a picture.

`cast_view` is geometry and the source of the labels; `shade_view` is looks only and cannot change
what is labelled. There are no shadows: the lamp sits beside the lens.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulate.camera import Camera, Pose
from haustra.simulate.rays import NO_FACE, Hits
from haustra.simulate.scene import Scene
from haustra.simulate.surface import TILE_PX

NOTHING = -1
"""Instance number of a pixel whose ray meets nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What each pixel of a camera meets, row by row, N = size * size."""

    camera: Camera
    pose: Pose
    directions: NDArray[np.float32]
    """[N,3] rays in the world, of length 1 along the optical axis."""
    hits: Hits
    """Distances are depths along the optical axis in millimetres."""
    instance: NDArray[np.int16]
    """[size,size] `scene.WALL`, a polyp's instance number, or `NOTHING`."""


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Lamp and sensor of one run."""

    lamp_offset_mm: tuple[float, float]
    """Where the lamp sits beside the lens: right and down."""
    brightness: float
    """What auto-exposure aims at, in 0..1 of linear light."""
    fill: float
    """Share of light that arrives over the walls instead of straight from the lamp."""
    vignette: float
    """Loss of light in the corners, 0..1."""
    blur_px: float
    """Deviation of the lens blur at 384 pixels."""
    noise: float
    """Deviation of the sensor noise in levels of 0..255."""
    balance: tuple[float, float, float]
    """White balance error per channel."""


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """Draw the lamp and the sensor of a run."""
    angle = rng.uniform(0, 2 * np.pi)
    offset_mm = rng.uniform(1.5, 3.5)
    balance = np.clip(rng.normal(1.0, 0.05, size=3), 0.85, 1.15)
    return Lighting(
        lamp_offset_mm=(float(offset_mm * np.cos(angle)), float(offset_mm * np.sin(angle))),
        brightness=float(rng.uniform(0.28, 0.60)),
        fill=float(rng.uniform(0.05, 0.13)),
        vignette=float(rng.uniform(0.1, 0.5)),
        blur_px=float(rng.uniform(0.45, 0.9)),
        noise=float(rng.uniform(0.6, 2.0)),
        balance=(float(balance[0]), float(balance[1]), float(balance[2])),
    )


def cast_view(scene: Scene, *, camera: Camera, pose: Pose) -> View:
    """Cast one ray through each pixel centre."""
    directions = pose.to_world(camera.directions)
    hits = scene.mesh.first_hits(pose.position_mm, directions=directions)
    instance = np.where(hits.face == NO_FACE, NOTHING, scene.face_instance[hits.face])
    return View(
        camera=camera,
        pose=pose,
        directions=directions,
        hits=hits,
        instance=instance.reshape(camera.size_px, camera.size_px).astype(np.int16),
    )


def shade_view(
    scene: Scene, *, view: View, lighting: Lighting, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture of a view, RGB uint8 [size,size,3].

    The lamp is a near point light: Lambert's law over the square of the distance, a small share
    that arrives over the walls and falls off with the distance, and a Blinn-Phong highlight
    (Blinn 1977) of the wet film, broken up by the relief.

    Args:
        scene: what was cast.
        view: what each pixel meets.
        lighting: lamp and sensor of the run.
        rng: source of the sensor noise.
    """
    size, surface = view.camera.size_px, scene.surface
    missed = view.hits.face == NO_FACE
    instance = np.maximum(view.instance.ravel(), 0)
    normal, texel = _interpolated(scene, view.hits)
    depth_mm = np.where(missed, np.float32(1e3), view.hits.distance)

    albedo = _look_up(surface.albedo, texel) * surface.tints[instance]
    relief = _look_up(surface.relief, texel)
    # Relief finer than a pixel would only sparkle, so it fades with the distance.
    fade = np.asarray(1 / (1 + (depth_mm / 45) ** 2), dtype=np.float32)
    gain = surface.relief_gains[instance] * fade
    normal = _unit(normal + gain[:, None] * relief[:, :3])

    lamp = np.array([*lighting.lamp_offset_mm, 0.0]) @ view.pose.axes
    along_ray = view.directions * depth_mm[:, None]
    to_lamp = lamp.astype(np.float32) - along_ray
    distance_sq = np.einsum("ij,ij->i", to_lamp, to_lamp)
    to_lamp /= np.sqrt(distance_sq)[:, None]
    to_eye = -_unit(view.directions)
    # Light that scatters under the surface reaches a little past the terminator.
    facing = np.maximum(np.einsum("ij,ij->i", normal, to_lamp) + 0.12, 0) / 1.12
    openness = 0.4 + 0.6 * np.abs(np.einsum("ij,ij->i", normal, to_eye))

    centred = view.camera.directions[:, :2]
    corner = np.einsum("ij,ij->i", centred, centred) / (2 * centred.max() ** 2)
    falloff = (1 - lighting.vignette * corner) / (distance_sq + 30)
    bounced = lighting.fill * openness / (np.sqrt(distance_sq) + 12) / 12
    light = facing * falloff + bounced
    halfway = _unit(to_lamp + to_eye)
    mirror = np.maximum(np.einsum("ij,ij->i", normal, halfway), 0)
    highlight = relief[:, 3] * (1.1 * _power(mirror, 8) + 0.05 * _power(mirror, 4)) * falloff

    exposure = lighting.brightness / np.float32(np.percentile((light * albedo[:, 0])[::7], 70))
    linear = (albedo * light[:, None] + highlight[:, None]) * np.float32(exposure)
    linear *= np.array(lighting.balance, dtype=np.float32)
    linear[missed] = 0
    return _develop(linear.reshape(size, size, 3), lighting=lighting, rng=rng)


def _interpolated(scene: Scene, hits: Hits) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return normals [N,3], not quite of unit length, and texture positions [N,2]."""
    corners = scene.faces[hits.face]
    second, third = hits.barycentric[:, :1], hits.barycentric[:, 1:]
    values = scene.attributes[corners[:, 0]] * (1 - second - third)
    values += scene.attributes[corners[:, 1]] * second
    values += scene.attributes[corners[:, 2]] * third
    return values[:, :3], values[:, 3:]


def _look_up(tile: NDArray[np.float32], texel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the tile's values [N,C] at positions [N,2], interpolated and repeated."""
    side = int(np.sqrt(len(texel)))  # OpenCV takes no row of that many pixels
    x, y = np.mod(texel.T, np.float32(TILE_PX)).reshape(2, side, side)
    values = cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(values, dtype=np.float32).reshape(len(texel), -1)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, 1e-6)[:, None])


def _power(base: NDArray[np.float32], doublings: int) -> NDArray[np.float32]:
    """Return base ** (2 ** doublings), many times faster than a float power."""
    for _ in range(doublings):
        base = base * base
    return base


def _develop(
    linear: NDArray[np.float32], *, lighting: Lighting, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn linear light [S,S,3] into a picture: lens blur, glare, tone curve, noise."""
    size = len(linear)
    sharp = cv2.GaussianBlur(linear, (0, 0), lighting.blur_px * max(size / 384, 0.5))
    small = cv2.resize(np.minimum(linear, 4), (size // 4, size // 4), interpolation=cv2.INTER_AREA)
    glare = cv2.resize(cv2.GaussianBlur(small, (0, 0), size / 150), (size, size))
    light = np.asarray(0.95 * sharp + 0.05 * glare, dtype=np.float32)
    # A shoulder that nears 1 keeps colour in bright tissue; the root is a display gamma of 2.
    levels = 255 * np.sqrt(1 - np.exp(-1.25 * light))
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    levels += np.float32(lighting.noise) * noise
    return np.asarray(np.clip(levels + 0.5, 0, 255), dtype=np.uint8)
