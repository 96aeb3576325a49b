"""Seeded smooth randomness: waves along a line and tiles that repeat without a seam."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def smooth_wave(
    positions: FloatArray, *, wavelengths: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Return a smooth random function of `positions` [N] as [N] in -1..1.

    Args:
        positions: where to evaluate it, in any unit.
        wavelengths: shortest and longest period, in the same unit.
        rng: fixes the function; the same state gives the same function at any positions.
    """
    periods = np.geomspace(*wavelengths, num=3) * rng.uniform(0.85, 1.15, size=3)
    phases = rng.uniform(0, 2 * np.pi, size=3)
    weights = np.sqrt(periods) / np.sqrt(periods).sum()
    return np.asarray(np.sin(positions[:, None] * (2 * np.pi / periods) + phases) @ weights)


def noise_tile(
    side_px: int, *, wavelengths_px: tuple[float, float], slope: float, rng: np.random.Generator
) -> FloatArray:
    """Return band-limited noise [side,side] of mean 0 and deviation 1 that repeats seamlessly.

    White noise is filtered in the frequency domain to amplitudes proportional to
    frequency ** -slope (spectral synthesis, Peitgen and Saupe 1988, chapter 2).

    Args:
        side_px: width and height of the tile.
        wavelengths_px: shortest and longest wavelength that it holds.
        slope: 0 is grainy, 2 is cloudy.
        rng: source of the noise.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((side_px, side_px)))
    frequency = np.hypot(np.fft.fftfreq(side_px)[:, None], np.fft.rfftfreq(side_px)[None, :])
    shortest, longest = wavelengths_px
    inside = (frequency >= 1 / longest) & (frequency <= 1 / shortest)
    spectrum *= np.where(inside, np.where(inside, frequency, 1.0) ** -slope, 0.0)
    tile = np.fft.irfft2(spectrum, s=(side_px, side_px))
    return np.asarray(tile / tile.std())
