"""Disturbances between the wall and the screen: lens, exposure, motion and the video chain.

S is the side of the square picture in pixels; lengths are shares of it unless a name says
otherwise. Linear light is RGB: 0 is black, and 1 and above is nearly white.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core import effects
from haustra.simulator.canvas import ByteImage, FloatImage, window_around
from haustra.simulator.events import KINDS, Event, in_order, looks_of
from haustra.simulator.noise import smooth_step
from haustra.simulator.rays import rotated


def _slide_fluid(linear: FloatImage, event: Event) -> FloatImage:
    """Paint a drop on the lens that refracts and blurs the picture behind it, and slides down."""
    rng, size = looks_of(event), len(linear)
    center_xy, radius = rng.uniform(0.2, 0.8, size=2), rng.uniform(0.15, 0.32)
    squeeze, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    power, softness = rng.uniform(0.02, 0.05) * rng.choice([-1, 1]), rng.uniform(0.3, 1.0)
    slide = rng.uniform(0.05, 0.15)
    center = (center_xy + np.array([0, slide * (event.progress - 0.5)])) * size
    reach = radius * size
    window = window_around(center[None], margin_px=reach, size_px=size)
    ys, xs = (np.arange(size, dtype=np.float32)[part] for part in window)
    xs, ys = xs[None, :], ys[:, None]
    right = (xs + np.float32(0.5 - center[0])) * np.float32(1 / reach)
    lower = (ys + np.float32(0.5 - center[1])) * np.float32(1 / reach)
    along, across = rotated(right, lower, angle=turn)
    across = across * np.float32(1 / squeeze)
    squared = along * along + across * across
    # The rim is wavy instead of round.
    squared = squared * (1 + 0.25 * np.sin(3 * along + 2 * across) * along)
    height = np.square(np.maximum(1 - squared, 0))
    bend = np.float32(power * event.strength * reach) * height
    place = xs + bend * right * 4, ys + bend * lower * 4
    bent = cv2.remap(linear, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    soft = _soften(np.asarray(bent), radius_px=0.02 * softness * size * event.strength)
    alpha = np.minimum(height * 6, 1) * np.float32(smooth_step(event.strength / 0.3))
    glow = np.exp(-np.square((squared - 0.8) * 8)) * np.maximum(-lower, 0) * event.strength
    fluid = linear.copy()
    fluid[window] = cv2.blendLinear(soft, linear[window], alpha, 1 - alpha)
    fluid[window] *= cv2.merge([1 + np.asarray(0.6 * glow, dtype=np.float32)] * 3)
    return fluid


def _overexpose(linear: FloatImage, event: Event) -> FloatImage:
    """Brighten the picture, most where the lamp is brightest."""
    rng, size = looks_of(event), len(linear)
    gain, bloom = rng.uniform(0.3, 1.2), rng.uniform(1.0, 7.0)
    radius = rng.uniform(0.12, 0.3)
    small_px = 32
    small = cv2.resize(linear, (small_px, small_px), interpolation=cv2.INTER_AREA)
    weight = np.square(np.square(np.minimum(small, 2).sum(axis=2))) + np.float32(1e-9)
    at = (np.arange(small_px) + 0.5) / small_px
    center = weight.sum(axis=0) @ at / weight.sum(), weight.sum(axis=1) @ at / weight.sum()
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    right, lower = (
        np.exp(-0.5 * np.square((along - np.float32(middle)) * np.float32(1 / radius)))
        for middle in center
    )
    strength = np.float32(event.strength)
    factor = 1 + strength * (np.float32(gain) + np.float32(bloom) * lower[:, None] * right[None])
    veil = strength * strength * np.float32(0.12) * lower[:, None] * right[None]
    return linear * cv2.merge([factor] * 3) + cv2.merge([veil] * 3)


def _smear(linear: FloatImage, event: Event) -> FloatImage:
    """Blur by motion along a line, up to 4 % of the side."""
    # Not `motion_blur_kernel`: a few sums of shifted images blur along lines of any length.
    rng, size = looks_of(event), len(linear)
    angle = rng.uniform(0, np.pi)
    length_px = 0.04 * size * event.strength
    way = length_px * np.array([np.cos(angle), np.sin(angle)])
    # A line is the sum of two lines of half its length, and so on.
    steps = []
    while np.abs(way).max() >= 1:
        half = np.rint(way / 2).astype(int)
        steps.append(half if np.abs(half).any() else np.rint(way).astype(int))
        way = way / 2
    if not steps:
        return linear
    total = np.abs(np.sum(steps, axis=0))
    beside, above = (int(pixels) for pixels in total)
    smeared: FloatImage = cv2.copyMakeBorder(  # type: ignore[assignment]
        linear, above, above, beside, beside, cv2.BORDER_REPLICATE
    )
    for step in steps:
        smeared = _mean_of_shifted(smeared, step_xy=step)
    # Half of the border remains on each side.
    x, y = (beside + 1) // 2, (above + 1) // 2
    return np.ascontiguousarray(smeared[y : y + size, x : x + size])


def _mean_of_shifted(image: FloatImage, *, step_xy: NDArray[np.intp]) -> FloatImage:
    """Return the mean of an image and its shifted copy where they overlap."""
    height, width = image.shape[:2]
    right, down = (int(pixels) for pixels in step_xy)
    here = image[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    there = image[max(down, 0) : height - max(-down, 0), max(right, 0) : width - max(-right, 0)]
    return cv2.addWeighted(here, 0.5, there, 0.5, 0)  # type: ignore[return-value]


def _defocus(linear: FloatImage, event: Event) -> FloatImage:
    """Blur by defocus, with a disc of up to 1.6 % of the side."""
    return _soften(linear, radius_px=0.016 * len(linear) * event.strength)


def _soften(image: FloatImage, *, radius_px: float) -> FloatImage:
    """Blur by a Gaussian as wide as a disc of a radius."""
    if radius_px < 0.2:
        return image
    return cv2.GaussianBlur(image, (0, 0), 0.5 * radius_px)  # type: ignore[return-value]


BLURS: dict[str, Callable[[FloatImage, Event], FloatImage]] = {
    "overexposure": _overexpose,
    "lens_fluid": _slide_fluid,
    "defocus": _defocus,
    "motion_blur": _smear,
}
"""Kinds between matter and sensor, in the order in which they are applied."""


def blur_light(linear: FloatImage, *, events: tuple[Event, ...]) -> FloatImage:
    """Apply overexposure, fluid on the lens, defocus and motion to linear light [S,S,3]."""
    for event in in_order(events, BLURS):
        linear = BLURS[event.kind](linear, event)
    return linear


def _interlace(levels: ByteImage, event: Event) -> ByteImage:
    """Shift every second row, as motion between two fields does, by up to 2 % of the side."""
    rng, size = looks_of(event), len(levels)
    sign = rng.choice([-1.0, 1.0])
    # The speed varies over an episode.
    pace = 0.75 + 0.25 * np.cos(8 * np.pi * event.progress)
    shift = np.array([[1, 0, sign * pace * 0.02 * size * event.strength], [0, 1, 0]])
    combed = levels.copy()
    odd = np.ascontiguousarray(levels[1::2])
    combed[1::2] = cv2.warpAffine(
        odd, shift, (size, len(odd)), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return combed


def _add_noise(levels: ByteImage, event: Event) -> ByteImage:
    """Add sensor noise at high gain: fine in brightness, coarser in color."""
    looks, size = looks_of(event), len(levels)
    grain, blotch = looks.uniform(3, 9), looks.uniform(2, 7)
    moment = int(event.progress * 1e6)  # differs between the frames of an episode
    rng = np.random.default_rng([event.seed, KINDS.index(event.kind), moment])
    coarse = rng.standard_normal((size // 2, size // 2, 3), dtype=np.float32)
    coarse *= np.float32(blotch * event.strength)
    noise = cv2.resize(coarse, (size, size))
    fine = rng.standard_normal((size, size), dtype=np.float32) * np.float32(grain * event.strength)
    return effects.add_noise(levels, np.asarray(cv2.add(noise, cv2.merge([fine] * 3))))


def _compress(levels: ByteImage, event: Event) -> ByteImage:
    """Compress as JPEG of quality 80 down to 25."""
    return effects.recode_jpeg_rgb(levels, quality=round(80 - 55 * event.strength))


VIDEO: dict[str, Callable[[ByteImage, Event], ByteImage]] = {
    "noise": _add_noise,
    "interlacing": _interlace,
    "compression": _compress,
}
"""Kinds of the video chain, in the order in which they are applied."""


def disturb_picture(levels: ByteImage, *, events: tuple[Event, ...]) -> ByteImage:
    """Apply noise, interlacing and compression to a picture, RGB uint8 [S,S,3]."""
    for event in in_order(events, VIDEO):
        levels = VIDEO[event.kind](levels, event)
    return levels
