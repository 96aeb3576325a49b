"""Rays from the camera to the scene, and the light that they return.

`cast_view` is geometry and the source of the labels; `shade_view` computes light and cannot change
the labels. There are no cast shadows, because the lamps are beside the lens.

Vectors of many pixels are stored as [3,N], so that each component is contiguous in memory.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.camera import Camera, Pose
from haustra.simulator.rays import NO_FACE, Hits
from haustra.simulator.scene import WALL, Scene
from haustra.simulator.surface import GLOSS_SCALE, RELIEF_SCALE, Coat
from haustra.simulator.tube import TILE_PX

NOTHING = -1  # instance number of a pixel outside the mask, or whose ray meets nothing
FAR_MM = 1000.0  # distance for shading where a ray meets nothing
REMAP_COLUMNS = 256  # pixels per row for `cv2.remap`, which needs a rectangle

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Ray hits of the N pixels within a camera's aperture, row by row."""

    scene: Scene
    camera: Camera
    pose: Pose
    directions: Floats  # [N,3] unit rays in the world
    hits: Hits  # distances are in millimeters along the rays
    instance: NDArray[np.int16]  # [size,size] `scene.WALL`, a polyp's instance number, or `NOTHING`

    def distance_mm(self) -> Floats:
        """Return the distance along each pixel's ray, [size,size]; 0 where it meets nothing."""
        image = np.zeros(self.instance.shape, dtype=np.float32)
        image[self.camera.mask] = np.where(self.hits.face != NO_FACE, self.hits.distance, 0)
        return image


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Lamps and sensor of one run."""

    lamps_mm: tuple[tuple[float, float], ...]
    """Positions of the light guides beside the lens: right and down."""
    beam: float  # exponent of the cosine to the axis in the angular fall-off
    brightness: float  # target of the auto-exposure in linear light
    fill: float  # share of light that the walls reflect before it arrives
    scatter: tuple[float, float, float]  # subsurface scattering beyond the terminator, per channel
    vignette: float  # loss of light in the corners, 0..1
    blur_px: float  # deviation of the lens blur at 384 pixels
    sharpening: float  # edge enhancement by the video processor
    noise: float  # deviation of the sensor noise in levels of 0..255
    balance: tuple[float, ...]  # white balance error per channel
    falls_off: bool = True  # whether light weakens with the square of the distance
    shines: bool = True  # whether wet tissue has highlights


def draw_lighting(
    rng: np.random.Generator, *, falls_off: bool = True, shines: bool = True
) -> Lighting:
    """Draw the lamps and the sensor of a run."""
    angle = rng.uniform(0, 2 * np.pi)
    offset_mm = rng.uniform(1.5, 3.5)
    x, y = float(offset_mm * np.cos(angle)), float(offset_mm * np.sin(angle))
    balance = np.clip(rng.normal(1.0, 0.06, size=3), 0.82, 1.18).tolist()
    red = rng.uniform(0.10, 0.22)
    return Lighting(
        lamps_mm=((x, y), (-x, -y)) if rng.random() < 0.75 else ((x, y),),
        beam=rng.uniform(0.0, 1.5),
        brightness=rng.uniform(0.7, 2.2),
        fill=rng.uniform(0.02, 0.12),
        scatter=(float(red), float(0.4 * red), float(0.3 * red)),
        vignette=rng.uniform(0.1, 0.6),
        blur_px=rng.uniform(0.45, 1.1),
        sharpening=rng.uniform(0.0, 0.9),
        noise=rng.uniform(0.6, 2.5),
        balance=tuple(balance),
        falls_off=falls_off,
        shines=shines,
    )


def cast_view(scene: Scene, *, camera: Camera, pose: Pose) -> View:
    """Cast one ray through each pixel center within the aperture."""
    directions = pose.to_world(camera.inside_directions)
    hits = scene.mesh.first_hits(pose.position_mm, directions=directions)
    instance = np.full((camera.size_px, camera.size_px), NOTHING, dtype=np.int16)
    instance[camera.mask] = np.where(hits.face == NO_FACE, NOTHING, scene.face_instance[hits.face])
    return View(
        scene=scene, camera=camera, pose=pose, directions=directions, hits=hits, instance=instance
    )


def shade_view(view: View, *, lighting: Lighting) -> Floats:
    """Return the light of a view, linear RGB [S,S,3], where 1 saturates; black outside the mask.

    Light from the lamps falls off with the square of the distance and toward the edge of the beam;
    the walls reflect a small share. Highlights are those of a wet film (Blinn 1977), broken up by
    the relief. The exposure depends on the brightness of the picture.
    """
    scene, met = view.scene, view.hits.face != NO_FACE
    instance = view.instance[view.camera.mask].clip(WALL)
    corners = scene.faces.take(view.hits.face, axis=0)
    normal, texel, own = _interpolated(scene.attributes, corners=corners, hits=view.hits)
    distance = np.where(met, view.hits.distance, np.float32(FAR_MM))
    albedo, gloss, relief = _looks(scene, instance=instance, texel=texel, own=own)
    # Relief finer than a pixel would alias, so it fades with the distance.
    relief *= scene.surface.relief_gains[instance] / (1 + (distance / 45) ** 2)
    normal = _unit(normal + relief)

    to_eye = -np.ascontiguousarray(view.directions.T)
    lit = np.zeros((3, len(distance)), dtype=np.float32)
    highlight = np.zeros(len(distance), dtype=np.float32)
    beam, vignette = _shading_of_lens(view.camera, lighting.beam, lighting.vignette)
    to_camera = distance * to_eye
    for lamp_mm in lighting.lamps_mm:
        lamp = (np.array([*lamp_mm, 0.0]) @ view.pose.axes).astype(np.float32)
        to_lamp = lamp[:, None] + to_camera
        distance_sq = _dot(to_lamp, to_lamp)
        to_lamp *= 1 / np.sqrt(distance_sq)
        strength = beam * np.float32(1 / len(lighting.lamps_mm))
        if lighting.falls_off:
            strength /= distance_sq + 12
        facing = _dot(normal, to_lamp) * strength
        for channel, reach in enumerate(lighting.scatter):
            lit[channel] += np.maximum(facing + reach * strength, 0) * np.float32(1 / (1 + reach))
        if lighting.shines:
            mirror = np.maximum(_dot(normal, _unit(to_lamp + to_eye)), 0)
            mirror_16 = _power(mirror, 4)
            highlight += (3.0 * _power(mirror_16, 4) + 0.06 * mirror_16) * strength
    openness = 0.4 + 0.6 * np.abs(_dot(normal, to_eye))
    reach_mm = distance + 12 if lighting.falls_off else np.float32(40)
    # Light that the wall has reflected is red.
    lit += np.array([[1.0], [0.6], [0.5]], dtype=np.float32) * (
        lighting.fill * openness / reach_mm / (12 if lighting.falls_off else 1)
    )
    lit *= albedo
    exposure = lighting.brightness / max(float(np.percentile(lit[0, ::7], 85)), 1e-6)
    lit += gloss * highlight
    lit *= np.float32(exposure) * vignette * met
    image = np.zeros((*view.instance.shape, 3), dtype=np.float32)
    image[view.camera.mask] = (lit * np.array(lighting.balance, dtype=np.float32)[:, None]).T
    return image


@lru_cache(maxsize=4)
def _shading_of_lens(camera: Camera, beam: float, vignette: float) -> tuple[Floats, Floats]:
    """Return the share of light along each ray from the lamps and through the lens, [N] each."""
    right, down, ahead = camera.inside_directions.T
    kept = 1 - 0.5 * vignette * (right**2 + down**2)
    return ahead.clip(0.05) ** np.float32(beam), kept.astype(np.float32)


def develop(light: Floats, *, lighting: Lighting, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn linear light [S,S,3] into a picture by lens blur, glare, a tone curve and noise."""
    size = len(light)
    scale = max(size / 384, 0.5)
    sharp = cv2.GaussianBlur(light, (0, 0), lighting.blur_px * scale)
    small = cv2.resize(np.minimum(light, 4), (size // 4, size // 4), interpolation=cv2.INTER_AREA)
    glare = cv2.resize(cv2.GaussianBlur(small, (0, 0), size / 150), (size, size))
    mixed = cv2.addWeighted(sharp, 0.95, glare, 0.05, 0)
    # The shoulder near 1 preserves color in bright tissue; the root is a display gamma of 2.
    levels = 255 * np.sqrt(1 - np.exp(-1.25 * mixed))
    if lighting.sharpening > 0.05:
        soft = cv2.GaussianBlur(levels, (0, 0), 1.4 * scale)
        levels = cv2.addWeighted(levels, 1 + lighting.sharpening, soft, -lighting.sharpening, 0)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    levels += np.float32(lighting.noise) * noise
    return np.asarray(np.clip(levels + 0.5, 0, 255), dtype=np.uint8)


def _interpolated(
    attributes: Floats, *, corners: NDArray[np.int32], hits: Hits
) -> tuple[Floats, Floats, Floats]:
    """Return normals [3,N], not normalized, texels [2,N] and the polyp's share [N]."""
    second, third = np.ascontiguousarray(hits.barycentric.T)
    values = np.ascontiguousarray(attributes.take(corners[:, 0], axis=0).T)
    values *= 1 - second - third
    for corner, weight in ((1, second), (2, third)):
        values += np.ascontiguousarray(attributes.take(corners[:, corner], axis=0).T) * weight
    return values[:3], values[3:5], values[5]


def _looks(
    scene: Scene, *, instance: NDArray[np.int16], texel: Floats, own: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return albedo [3,N], gloss [N] and relief [3,N] of the wall and of polyps."""
    color, relief = _look_up(scene.surface.wall, texel)
    on_polyp = np.flatnonzero(own > 0)
    if len(on_polyp):
        own_color, own_relief = _look_up(scene.surface.polyp, texel[:, on_polyp])
        own_color[:, :3] *= np.sqrt(scene.surface.tints[instance[on_polyp]])
        for whole, part in ((color, own_color), (relief, own_relief)):
            under = whole.take(on_polyp, axis=0)
            whole[on_polyp] = under + own[on_polyp, None] * (part - under)
    channels = np.ascontiguousarray(color.T) * np.float32(1 / 255)
    slopes = (np.ascontiguousarray(relief.T[:3]) - 128) * np.float32(RELIEF_SCALE / 127)
    return channels[:3] ** 2, channels[3] * GLOSS_SCALE, slopes


def _look_up(coat: Coat, texel: Floats) -> tuple[Floats, Floats]:
    """Return interpolated bytes of color and relief, [N,4] each, at texels [2,N]; tiles repeat."""
    number = texel.shape[1]
    rows = -(-number // REMAP_COLUMNS)
    place = np.zeros((2, rows * REMAP_COLUMNS), dtype=np.float32)
    place[:, :number] = texel - TILE_PX * np.floor(texel * np.float32(1 / TILE_PX))
    x, y = place.reshape(2, rows, REMAP_COLUMNS)
    color, relief = (
        cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(-1, 4)[:number]
        for tile in (coat.color, coat.relief)
    )
    return color.astype(np.float32), relief.astype(np.float32)


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors * (1 / np.sqrt(np.maximum(_dot(vectors, vectors), 1e-12))))


def _power(base: Floats, doublings: int) -> Floats:
    """Return base ** (2 ** doublings), faster than a float power."""
    for _ in range(doublings):
        base = base * base
    return base
