"""Textures of one colon: color and relief tiles of its wall and of its polyps.

Colors are linear RGB albedo.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.simulator.noise import noise_tile
from haustra.simulator.tube import TILE_PX

FloatTile = NDArray[np.float32]

GLOSS_SCALE = 1.6  # gloss at the largest byte
RELIEF_SCALE = 0.6  # slope at the largest byte of a relief tile; 128 is flat

HUE_SHIFT = np.array([0.02, -0.10, -0.08], dtype=np.float32)
"""Log factors on red, green and blue for one standard deviation of redness."""
VESSEL_ABSORPTION = np.array([0.45, 0.9, 0.75], dtype=np.float32)  # blood absorbs green most


@dataclass(frozen=True, kw_only=True, eq=False)
class Coat:
    """Textures of one kind of tissue as seamless tiles of bytes, [TILE_PX,TILE_PX,4]."""

    color: NDArray[np.uint8]
    """Square roots of linear RGB albedo in 0..1 (3) and gloss of the wet film (1)."""
    relief: NDArray[np.uint8]  # offsets of unit normals (3); the fourth channel is unused


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Textures and tints of one colon."""

    wall: Coat
    polyp: Coat
    tints: NDArray[np.float32]  # [1 + polyps,3] factors on the albedo of the wall and of each polyp
    relief_gains: NDArray[np.float32]  # [1 + polyps] factors on the relief


def build_surface(
    *, num_polyps: int, with_vessels: bool = True, rng: np.random.Generator
) -> Surface:
    """Draw random mucosa, and polyps that look similar to it but not the same."""
    red, green, blue = rng.uniform([0.65, 0.20, 0.38], [0.92, 0.44, 0.90])
    base = np.array([red, red * green, red * green * blue], dtype=np.float32)
    wall_rng, polyp_rng = rng.spawn(2)
    # Polyps have nearly the wall's color: a detector must not learn a hue.
    tints = rng.uniform(0.85, 1.12, size=(num_polyps + 1, 1)) * rng.normal(
        [1.0, 0.92, 0.93], [0.03, 0.10, 0.10], size=(num_polyps + 1, 3)
    )
    tints[0] = 1
    relief_gains = np.append(rng.uniform(0.4, 1.1), rng.uniform(0.4, 1.6, size=num_polyps))
    return Surface(
        wall=_wall(base, with_vessels=with_vessels, rng=wall_rng),
        polyp=_polyp(base, rng=polyp_rng),
        tints=tints.clip(0.5, 1.3).astype(np.float32),
        relief_gains=relief_gains.astype(np.float32),
    )


def _wall(base: FloatTile, *, with_vessels: bool, rng: np.random.Generator) -> Coat:
    """Draw mucosa with blotches, vessels and fine relief."""
    cloudy = noise_tile(TILE_PX, wavelengths_px=(45, 768), slope=1.6, rng=rng)
    redness = noise_tile(TILE_PX, wavelengths_px=(24, 300), slope=1.3, rng=rng)
    grain = noise_tile(TILE_PX, wavelengths_px=(3, 30), slope=0.6, rng=rng)
    shade = np.exp(rng.uniform(0.05, 0.15) * cloudy + rng.uniform(0.02, 0.05) * grain)
    albedo = base * shade[..., None]
    albedo *= np.exp(redness[..., None] * HUE_SHIFT * np.float32(rng.uniform(0.5, 1.6)))
    if with_vessels:
        strength = np.float32(rng.uniform(0.1, 0.75))
        present = 1 / (1 + np.exp(-2.5 * (cloudy + np.float32(rng.uniform(-0.8, 0.6)))))
        vessels = np.maximum(
            _vessels(width_px=rng.uniform(2.0, 3.6), wavelengths_px=(90, 380), rng=rng),
            0.6 * _vessels(width_px=rng.uniform(1.0, 1.6), wavelengths_px=(30, 120), rng=rng),
        )
        albedo *= 1 - strength * (vessels * present)[..., None] * VESSEL_ABSORPTION
    fine = _relief(wavelengths_px=(5, 24), rng=rng)
    relief = 0.09 * _relief(wavelengths_px=(30, 160), rng=rng) + np.float32(0.07) * fine
    return _coat(albedo, relief=relief, film=rng.uniform(0.5, 1.3), rng=rng)


def _polyp(base: FloatTile, *, rng: np.random.Generator) -> Coat:
    """Draw a polyp's own surface: a fine pattern of pits or ridges and blotches, no vessels."""
    blotches = noise_tile(TILE_PX, wavelengths_px=(20, 250), slope=1.2, rng=rng)
    pit_px = rng.uniform(4, 11)
    pits = noise_tile(TILE_PX, wavelengths_px=(pit_px, 1.8 * pit_px), slope=0.0, rng=rng)
    if rng.random() < 0.5:
        pits = np.abs(pits) - np.float32(0.8)  # ridges instead of pits
    depth = np.float32(rng.uniform(0.02, 0.16))
    albedo = base * np.exp(0.09 * blotches + depth * pits)[..., None]
    albedo *= np.exp(blotches[..., None] * HUE_SHIFT * np.float32(rng.uniform(0.3, 1.5)))
    relief = 0.07 * _relief(wavelengths_px=(pit_px, 4 * pit_px), rng=rng)
    relief += 0.08 * _relief(wavelengths_px=(30, 120), rng=rng)
    return _coat(albedo, relief=relief, film=rng.uniform(0.6, 1.5), rng=rng)


def _coat(albedo: FloatTile, *, relief: FloatTile, film: float, rng: np.random.Generator) -> Coat:
    # Patches of mucus break up the highlights.
    patches = noise_tile(TILE_PX, wavelengths_px=(38, 300), slope=1.0, rng=rng)
    gloss = np.float32(film) * np.clip(0.5 + 0.6 * patches, 0.05, 1.6)
    color = np.dstack([np.sqrt(np.clip(albedo, 0.01, 0.95)), gloss / GLOSS_SCALE])
    slopes = np.dstack([relief, np.zeros(relief.shape[:2])]) / RELIEF_SCALE
    return Coat(
        color=np.clip(color * 255 + 0.5, 0, 255).astype(np.uint8),
        relief=np.clip(slopes * 127 + 128.5, 1, 255).astype(np.uint8),
    )


def _relief(*, wavelengths_px: tuple[float, float], rng: np.random.Generator) -> FloatTile:
    layers = [
        noise_tile(TILE_PX, wavelengths_px=wavelengths_px, slope=0.7, rng=rng) for _ in range(2)
    ]
    # The third layer is a mix of the first two.
    return np.stack([*layers, np.roll(layers[0] + layers[1], 341, axis=0) * 0.7], axis=-1)


def _vessels(
    *, width_px: float, wavelengths_px: tuple[float, float], rng: np.random.Generator
) -> FloatTile:
    """Return a network of thin lines in 0..1, at the zero crossings of smooth noise."""
    noise = noise_tile(TILE_PX, wavelengths_px=wavelengths_px, slope=1.5, rng=rng)
    slopes = [np.roll(noise, -1, axis=axis) - np.roll(noise, 1, axis=axis) for axis in (0, 1)]
    steepness = np.hypot(*slopes) / 2
    # Value over slope is the distance to the crossing; the minimum ends vessels at flat spots.
    distance_px = np.abs(noise) / (steepness + 0.2 * steepness.mean())
    return np.asarray(np.exp(-((distance_px / width_px) ** 2)))
