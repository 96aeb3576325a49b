"""Seeded smooth noise: waves along a line and tiles that repeat without a seam."""

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PX_PER_WAVE = 5.0  # fewest pixels of the shortest wave in a tile that is enlarged


def smooth_wave(
    positions: FloatArray, *, wavelengths: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Return a smooth random function of `positions` [N] as [N] in -1..1.

    `wavelengths` are the shortest and longest period in the unit of the positions.
    """
    periods = np.geomspace(*wavelengths, num=3) * rng.uniform(0.85, 1.15, size=3)
    phases = rng.uniform(0, 2 * np.pi, size=3)
    weights = np.sqrt(periods) / np.sqrt(periods).sum()
    return np.asarray(np.sin(positions[:, None] * (2 * np.pi / periods) + phases) @ weights)


def noise_tile(
    side_px: int, *, wavelengths_px: tuple[float, float], slope: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return band-limited noise [side,side] of mean 0 and deviation 1 that repeats seamlessly.

    White noise is filtered in the frequency domain to amplitudes proportional to
    frequency ** -slope (spectral synthesis, Peitgen and Saupe 1988, chapter 2). Noise without fine
    detail is made small and enlarged. A slope of 0 is grainy, one of 2 is cloudy.
    """
    shrink = 1
    while wavelengths_px[0] / (2 * shrink) >= PX_PER_WAVE and side_px % (2 * shrink) == 0:
        shrink *= 2
    side = side_px // shrink
    spectrum = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) / shrink
    shortest, longest = wavelengths_px
    inside = (frequency >= 1 / longest) & (frequency <= 1 / shortest)
    gain = np.where(inside, np.where(inside, frequency, 1.0) ** -slope, 0.0)
    tile = np.fft.irfft2(spectrum * gain.astype(np.float32), s=(side, side)).astype(np.float32)
    if shrink > 1:
        wrapped = np.pad(tile, 2, mode="wrap")
        large = cv2.resize(wrapped, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_CUBIC)
        inner = slice(2 * shrink, -2 * shrink)
        tile = np.asarray(large, dtype=np.float32)[inner, inner]
    return np.asarray(tile / tile.std(), dtype=np.float32)


def smooth_step(share: float) -> float:
    """Return a smooth step from 0 at 0 to 1 at 1."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)
