"""Matter on the wall or in front of it: stool, mucus, blood, bubbles and instruments.

S is the side of the square picture in pixels; lengths are shares of it unless a name says
otherwise. Linear light is RGB: 0 is black, and 1 and above is nearly white.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.canvas import (
    ByteImage,
    Canvas,
    FloatImage,
    cloud,
    draw_drift,
    in_sixteenths,
    ramp,
    relief,
    tinted,
    window_around,
)
from haustra.simulator.events import Event, in_order, looks_of
from haustra.simulator.instrument import paint_instrument
from haustra.simulator.noise import FloatArray, smooth_step
from haustra.simulator.rays import rotated

Mask = NDArray[np.bool_]

OPAQUE = 0.5  # smallest total alpha of opaque matter that hides what is behind it
TISSUE_RED = 0.65
"""Typical red albedo of mucosa: red light divided by this is the light that arrives."""
ASSUMED_FOV_DEG = 135.0
"""Angle of view for the level of fluids; the true one does not change their looks."""


def _level_of_share(field: FloatImage, share: float) -> float:
    """Return the value that about `share` of a field [S,S] exceeds."""
    step = max(1, len(field) // 64)
    return float(np.quantile(field[::step, ::step], 1 - share))


def _mixed(
    light: FloatImage, share: FloatImage, *, albedo: FloatArray, other: FloatArray
) -> FloatImage:
    """Return `light` [h,w] times a mix of two colors [3], `share` [h,w] of the other one."""
    channels = [
        light * (np.float32(own) + np.float32(its - own) * share)
        for own, its in zip(albedo, other, strict=True)
    ]
    return cv2.merge(channels)  # type: ignore[return-value]


def _draw_down(rng: np.random.Generator) -> float:
    """Draw the direction of gravity in the picture, in radians; it is mostly close to down."""
    return float(np.pi / 2 + rng.normal(0, 0.7))


def _fall_mm(canvas: Canvas, *, down: float) -> tuple[FloatImage, FloatImage]:
    """Return how far each pixel's wall is below the camera, and its ray's fall per mm, [S,S]."""
    across = (np.arange(canvas.size_px, dtype=np.float32) + 0.5) / (canvas.size_px / 2) - 1
    right, lower = across[None, :], across[:, None]
    half = np.float32(np.radians(ASSUMED_FOV_DEG / 2))
    squared = (half * half) * (right * right + lower * lower)
    # sin(x) / x, accurate to 1 % up to 2 rad.
    sinc = 1 + squared * (squared * np.float32(1 / 120 - 1 / 1800) - np.float32(1 / 6))
    fall = half * (np.float32(np.cos(down)) * right + np.float32(np.sin(down)) * lower) * sinc
    return canvas.depth_mm * fall, fall


class _Pool(NamedTuple):
    """Fluid that has settled at the lowest wall in view."""

    alpha: FloatImage  # [S,S]; grows with the fluid in front of the wall, 0 outside
    below_mm: FloatImage  # [S,S] depth of the wall below the surface; negative outside
    lit: FloatImage  # [S,S] light that arrives at the surface, which is nearer than the wall


def _settle(canvas: Canvas, *, down: float, share: float, turbidity_mm: float) -> _Pool:
    """Return fluid that covers the lowest `share` of the picture's wall."""
    wall_mm, fall = _fall_mm(canvas, down=down)
    level_mm = np.float32(max(_level_of_share(wall_mm, share), 1.0))
    below_mm = wall_mm - level_mm
    through_mm = np.maximum(below_mm, 0) / np.maximum(fall, 0.05)
    # Scum and the lamp's reflection sharpen the edge of the fluid.
    alpha = 0.3 + 0.7 * (1 - np.exp(through_mm * np.float32(-1 / turbidity_mm)))
    nearer = np.clip(wall_mm / level_mm, 1, 2)
    lit = np.minimum(canvas.lamp * nearer * nearer, np.maximum(canvas.lamp, 1))
    return _Pool(alpha=alpha * ramp(below_mm, 0, 0.6), below_mm=below_mm, lit=lit)


STOOL_COLORS = np.array(
    [[0.68, 0.44, 0.07], [0.60, 0.34, 0.09], [0.42, 0.31, 0.07], [0.30, 0.16, 0.05]]
)
"""Linear albedo of yellow, ochre, olive and brown."""
STOOL_SHARES = ((0.4, 0.35, 0.2, 0.05), (0.05, 0.25, 0.3, 0.4))
"""Probability of each color for the light and the dark parts of a lump."""


def _paint_stool(canvas: Canvas, event: Event) -> None:
    """Paint lumps and flakes, a turbid pool at the lowest wall and a stain around them."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.2)
    down = _draw_down(rng)
    has_pool, has_stain = rng.random(2) < (0.5, 0.6)
    coverage, pool_share = rng.uniform(0.02, 0.16), rng.uniform(0.08, 0.35)
    turbidity_mm = rng.uniform(0.8, 4)
    fresh, old = (
        STOOL_COLORS[rng.choice(len(STOOL_COLORS), p=shares)] * rng.uniform(0.8, 1.25)
        for shares in STOOL_SHARES
    )
    drift = draw_drift(rng, event=event, reach=0.12)
    lumps = cloud(rng, canvas.size_px, cells=7, octaves=6, roughness=0.68, drift=drift)
    blotches = cloud(rng, canvas.size_px, cells=5, octaves=3, drift=drift)
    place = lumps + 0.9 * blotches
    if has_pool:
        pool = _settle(
            canvas, down=down, share=pool_share * event.strength, turbidity_mm=turbidity_mm
        )
        murky = _mixed(pool.lit, ramp(blotches, -1.5, 2), albedo=fresh * 0.7, other=old)
        canvas.cover(murky, pool.alpha * np.float32(0.92 * shown), opaque=True)
        # Flakes gather where the fluid ends.
        place += 1.5 * np.exp(-np.square(pool.below_mm * np.float32(1 / 5)))
    else:
        wall_mm, _ = _fall_mm(canvas, down=down)
        place += ramp(wall_mm, -10, 30)
    level = _level_of_share(place, coverage * event.strength)
    if has_stain:
        stain = ramp(place, level - 2.0, level) * np.float32(0.35 * shown)
        canvas.cover(tinted(canvas.lamp, albedo=fresh * (1.1, 0.9, 0.5)), stain, opaque=False)
    rise = relief(lumps)
    # Lumps stand out most where they are thick, and are dark where they meet the wall.
    thick = ramp(place, level - 0.1, level + 1.6)
    lit = canvas.lamp * np.clip(0.55 + 0.6 * thick - 0.5 * rise, 0.2, 1.7)
    color = _mixed(lit, ramp(blotches - lumps, -1.2, 1.8), albedo=fresh, other=old)
    alpha = ramp(place, level, level + 0.3) * np.float32(0.96 * shown)
    canvas.cover(color, alpha, opaque=True)
    canvas.add(2 * canvas.lamp * alpha * ramp(-rise, 0.8, 1.2))


def _paint_mucus(canvas: Canvas, event: Event) -> None:
    """Paint whitish or yellowish strands and films through which the wall is visible."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.3)
    albedo = np.array([0.85, 0.72, 0.42]) * [1, rng.uniform(0.85, 1.1), rng.uniform(0.5, 1.5)]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.5, 3)
    film_share, strand_width = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.12)
    drift = draw_drift(rng, event=event, reach=0.15)
    film = cloud(rng, canvas.size_px, cells=6, octaves=5, drift=drift)
    lines = cloud(
        rng,
        canvas.size_px,
        cells=6,
        octaves=3,
        roughness=0.5,
        drift=drift,
        angle=angle,
        stretch=stretch,
    )
    level = _level_of_share(film, film_share * event.strength)
    near = ramp(film, level - 1.2, level + 0.3)
    strands = np.exp(-np.square(lines * np.float32(1 / strand_width))) * near
    alpha = np.maximum(0.30 * ramp(film, level, level + 1.2), 0.45 * strands)
    alpha *= np.float32(shown)
    rise = relief(film)
    lit = canvas.lamp * np.clip(0.95 - 0.15 * rise, 0.5, 1.4)
    canvas.cover(tinted(lit, albedo=albedo), alpha, opaque=False)
    canvas.add(canvas.lamp * alpha * ramp(-rise, 0.35, 0.55) * 4)


def _paint_blood(canvas: Canvas, event: Event) -> None:
    """Paint streaks that run down from a place, and often a pool."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.2)
    down = _draw_down(rng)
    source_xy, reach = rng.uniform(0.25, 0.75, size=2), rng.uniform(0.12, 0.3)
    has_pool, pool_share = rng.random() < 0.4, rng.uniform(0.03, 0.15)
    stretch = rng.uniform(1.5, 4)
    thin = np.array([0.50, 0.022, 0.016]) * rng.uniform(0.8, 1.3)
    thick = np.array([0.17, 0.006, 0.006]) * rng.uniform(0.8, 1.3)
    drift = draw_drift(rng, event=event, reach=0.1)
    streaks = cloud(
        rng, canvas.size_px, cells=8, octaves=5, drift=drift, angle=down, stretch=stretch
    )
    away = (np.arange(canvas.size_px, dtype=np.float32) + 0.5) / canvas.size_px
    right, lower = (
        (away - np.float32(start + moved)) / np.float32(reach)
        for start, moved in zip(source_xy, drift.shift_xy, strict=True)
    )
    along, across = rotated(right[None, :], lower[:, None], angle=down)
    # Blood spreads further down than up.
    along = np.where(along > 0, along * np.float32(0.5), along * 2)
    thickness = 1.3 * streaks + np.float32(0.6) - 1.4 * (across * across + along * along)
    thickness = np.maximum(thickness + np.float32(event.strength - 1), 0)
    alpha = 1 - np.exp(-2.2 * thickness)
    if has_pool:
        pool = _settle(canvas, down=down, share=pool_share * event.strength, turbidity_mm=1.5)
        alpha = np.maximum(alpha, pool.alpha)
    alpha *= np.float32(0.95 * shown)
    rise = relief(streaks)
    lit = canvas.lamp * np.clip(1 - 0.12 * rise, 0.5, 1.5)
    canvas.cover(_mixed(lit, alpha * alpha, albedo=thin, other=thick), alpha, opaque=True)
    canvas.add(2 * canvas.lamp * alpha * ramp(-rise, 0.45, 0.7))


def _paint_bubbles(canvas: Canvas, event: Event) -> None:
    """Paint clusters of clear bubbles, or a patch of foam."""
    rng, size = looks_of(event), canvas.size_px
    is_foam = rng.random() < 0.3
    num_clusters = int(rng.integers(1, 4))
    drift = draw_drift(rng, event=event, reach=0.1)
    for _ in range(num_clusters):
        num_bubbles = int(rng.integers(120, 260) if is_foam else rng.integers(4, 40))
        radius = 0.010 if is_foam else rng.uniform(0.012, 0.022)
        # The spread grows with the number, so that bubbles cover about half to all of the area.
        spread = radius * np.sqrt(num_bubbles) * rng.uniform(0.45, 1.0, size=2)
        turn, center_xy = rng.uniform(0, np.pi), rng.uniform(0.15, 0.85, size=2)
        places = rng.normal(size=(num_bubbles, 2)) * spread
        places = places @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        radii = np.minimum(radius * rng.lognormal(0, 0.5, num_bubbles), 0.055)
        born = rng.uniform(0, 0.85, num_bubbles)
        wobble = rng.uniform(0, 2 * np.pi, num_bubbles)
        places = drift.zoom * places + center_xy + drift.shift_xy
        places += 0.004 * np.column_stack([np.cos(wobble), np.sin(wobble)]) * event.progress
        grown = np.clip((event.strength - born) / 0.15, 0, 1)
        alive = np.flatnonzero(grown > 0)
        if len(alive):
            order = alive[np.argsort(-radii[alive], kind="stable")]
            _paint_cluster(
                canvas,
                places_px=places[order] * size,
                radii_px=np.maximum(radii * grown * size * drift.zoom, 0.4)[order],
                haze=0.65 * smooth_step(event.strength / 0.5) if is_foam else 0.0,
                light_angle=turn,
            )


def _paint_cluster(
    canvas: Canvas, *, places_px: FloatArray, radii_px: FloatArray, haze: float, light_angle: float
) -> None:
    """Paint bubbles with centers [N,2] and radii [N]; later ones cover earlier ones.

    `haze` is the alpha of the white of many thin films. The highlights on the bubbles lie in the
    direction `light_angle`.
    """
    margin_px = float(radii_px.max()) + 3
    window = window_around(places_px, margin_px=margin_px, size_px=canvas.size_px)
    light, lamp = canvas.light[window], canvas.lamp[window]
    height, width = lamp.shape
    if width < 2 or height < 2:
        return
    # Channels: body, rim, highlight. Coordinates have four binary places.
    drawn: ByteImage = np.zeros(light.shape, dtype=np.uint8)
    line = max(1, round(canvas.size_px / 400))
    corner_px = [window[1].start, window[0].start]
    glint = np.array([np.cos(light_angle), np.sin(light_angle)])
    for place, radius in zip(places_px - corner_px, radii_px, strict=True):
        middle = in_sixteenths(place)
        cv2.circle(drawn, middle, round(radius * 16), (255, 40, 0), cv2.FILLED, cv2.LINE_AA, 4)
        cv2.circle(drawn, middle, round(radius * 16), (255, 150, 0), line, cv2.LINE_AA, 4)
        if radius > 2:
            spot = in_sixteenths(place + 0.55 * radius * glint)
            spot_radius = round(max(0.16 * radius, 0.6) * 16)
            bright = 255 if radius > 4 else 140
            cv2.circle(drawn, spot, spot_radius, (255, 255, bright), cv2.FILLED, cv2.LINE_AA, 4)
            if radius > 4:
                opposite = in_sixteenths(place - 0.6 * radius * glint)
                half = spot_radius // 2
                cv2.circle(drawn, opposite, half, (255, 200, 90), cv2.FILLED, cv2.LINE_AA, 4)
    body, rim, highlight = cv2.split(drawn.astype(np.float32) / 255)
    # A bubble's flank reflects light away, so it is darker than the wall behind it.
    shade = 1 - 0.22 * body * (1 - rim)
    light *= cv2.merge([shade, shade, shade])
    if haze:
        white = tinted(lamp * (0.55 + 0.45 * rim), albedo=np.array([0.88, 0.84, 0.72]))
        crowd = cv2.blur(body, (2 * (width // 16) + 1, 2 * (height // 16) + 1))
        canvas.cover(white, body * crowd * np.float32(haze), window=window, opaque=True)
    canvas.add(lamp * (0.35 * rim * rim + 1.6 * highlight), window=window)


MATTER: dict[str, Callable[[Canvas, Event], None]] = {
    "mucus": _paint_mucus,
    "stool": _paint_stool,
    "blood": _paint_blood,
    "bubbles": _paint_bubbles,
    "instrument": paint_instrument,
}
"""Kinds of matter, in order from the wall to the lens."""


def paint_matter(
    linear: FloatImage, *, depth_mm: FloatImage, events: tuple[Event, ...]
) -> tuple[FloatImage, Mask]:
    """Paint the events that are matter.

    Args:
        linear: Light of the wall [S,S,3].
        depth_mm: Distance of the wall along each pixel's ray [S,S]; 0 where there is none.
        events: Events of the frame; other kinds are ignored.

    Returns:
        The light [S,S,3], and where opaque matter hides at least half of the wall, bool [S,S].
    """
    here = in_order(events, MATTER)
    if not here:
        return linear, np.zeros(depth_mm.shape, dtype=bool)
    canvas = Canvas(
        light=linear.copy(),
        through=np.ones_like(depth_mm),
        lamp=_light_that_arrives(linear, depth_mm=depth_mm),
        depth_mm=depth_mm,
    )
    for event in here:
        MATTER[event.kind](canvas, event)
    return canvas.light, canvas.through <= 1 - OPAQUE


def _light_that_arrives(linear: FloatImage, *, depth_mm: FloatImage) -> FloatImage:
    """Return the light that a white wall would send back, smoothed, [S,S]."""
    size = len(linear)
    small_px = max(16, size // 8)
    red = np.minimum(cv2.extractChannel(linear, 0), np.float32(1.2))
    seen = (depth_mm > 0).astype(np.float32)
    total, weight = (
        cv2.GaussianBlur(
            cv2.resize(image, (small_px, small_px), interpolation=cv2.INTER_AREA),
            (0, 0),
            small_px / 24,
        )
        for image in (red * seen, seen)
    )
    small = total / (np.maximum(weight, 0.02) * np.float32(TISSUE_RED))
    return cv2.resize(small, (size, size))  # type: ignore[return-value]
