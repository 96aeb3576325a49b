"""How tissue looks: colour and relief tiles of one colon, and the tints of its polyps.

Colours are linear RGB albedo. Nothing here knows geometry or light.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.simulate.noise import FloatArray, noise_tile

TILE_PX = 1024
PX_PER_MM = 8.0
"""Texels per millimetre; around the tube a tile is stretched to one whole turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Textures and tints of one colon."""

    albedo: NDArray[np.float32]
    """[TILE_PX,TILE_PX,3] linear RGB in 0..1, repeats without a seam."""
    relief: NDArray[np.float32]
    """[TILE_PX,TILE_PX,4] what is added to unit normals (3) and the wet film's gloss (1)."""
    tints: NDArray[np.float32]
    """[1 + polyps,3] factors on the albedo: the wall's, then each polyp's."""
    relief_gains: NDArray[np.float32]
    """[1 + polyps] factors on the relief."""


def build_surface(*, num_polyps: int, rng: np.random.Generator) -> Surface:
    """Make random mucosa with blotches, vessels and fine relief."""
    red, green, blue = rng.uniform([0.60, 0.26, 0.60], [0.85, 0.43, 0.98])
    base = red * np.array([1.0, green, green * blue])
    cloudy = noise_tile(TILE_PX, wavelengths_px=(60, 1024), slope=1.6, rng=rng)
    redness = noise_tile(TILE_PX, wavelengths_px=(30, 400), slope=1.3, rng=rng)
    grain = noise_tile(TILE_PX, wavelengths_px=(4, 40), slope=0.7, rng=rng)
    shade = np.exp(0.10 * cloudy + 0.035 * grain)
    albedo = base * shade[..., None]
    albedo *= np.exp(redness[..., None] * np.array([0.02, -0.10, -0.08]) * rng.uniform(0.6, 1.4))

    strength = rng.uniform(0.15, 0.7)
    present = 1 / (1 + np.exp(-2.5 * (cloudy + rng.uniform(-0.6, 0.6))))
    vessels = np.maximum(
        _vessels(width_px=2.6, wavelengths_px=(120, 500), rng=rng),
        0.6 * _vessels(width_px=1.2, wavelengths_px=(40, 160), rng=rng),
    )
    thinning = strength * (vessels * present)[..., None] * np.array([0.45, 0.9, 0.75])
    albedo *= 1 - thinning

    relief = np.stack(
        [
            0.09 * noise_tile(TILE_PX, wavelengths_px=(30, 160), slope=1.0, rng=rng)
            + 0.05 * noise_tile(TILE_PX, wavelengths_px=(6, 30), slope=0.5, rng=rng)
            for _ in range(3)
        ],
        axis=-1,
    )
    # Mucus lies in patches, which breaks highlights up (Perlin noise is the usual means).
    film = noise_tile(TILE_PX, wavelengths_px=(50, 400), slope=1.0, rng=rng)
    gloss = rng.uniform(0.5, 1.3) * np.clip(0.5 + 0.6 * film, 0.05, 1.6)
    # Polyps are nearly of the wall's colour: a give-away hue would teach a detector nothing.
    tints = rng.uniform(0.90, 1.08, size=(num_polyps + 1, 1)) * rng.normal(
        [1.0, 0.96, 0.97], [0.02, 0.05, 0.05], size=(num_polyps + 1, 3)
    )
    tints[0] = 1
    relief_gains = np.append(rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.7, size=num_polyps))
    return Surface(
        albedo=np.clip(albedo, 0.01, 0.95).astype(np.float32),
        relief=np.dstack([relief, gloss]).astype(np.float32),
        tints=tints.astype(np.float32),
        relief_gains=relief_gains.astype(np.float32),
    )


def _vessels(
    *, width_px: float, wavelengths_px: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Return a network of thin lines in 0..1: where smooth noise crosses zero."""
    noise = noise_tile(TILE_PX, wavelengths_px=wavelengths_px, slope=1.5, rng=rng)
    slopes = [np.roll(noise, -1, axis=axis) - np.roll(noise, 1, axis=axis) for axis in (0, 1)]
    steepness = np.hypot(*slopes) / 2
    # Value over slope is the distance to the crossing; the floor ends vessels at flat spots.
    distance_px = np.abs(noise) / (steepness + 0.2 * steepness.mean())
    return np.asarray(np.exp(-((distance_px / width_px) ** 2)))
