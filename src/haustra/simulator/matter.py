"""What lies on the wall or hangs before it: stool, mucus, blood, bubbles, instruments.

S is the side of the square picture in pixels; lengths are shares of it unless a name says
otherwise. Linear light is RGB, 0 is black and 1 and more nearly white.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.events import Event, Kind, looks_of
from haustra.simulator.noise import smooth_step

FloatImage = NDArray[np.float32]
ByteImage = NDArray[np.uint8]
Mask = NDArray[np.bool_]

OPAQUE = 0.5
"""Least alpha of opaque matter, all of it together, that hides what is behind it."""
TISSUE_RED = 0.65
"""Typical red albedo of mucosa: red light over this is the light that arrives."""
ASSUMED_FOV_DEG = 135.0
"""Angle of view with which fluid finds its level; the true one does not change its looks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Canvas:
    """A frame while matter is painted on it; `light` and `through` change in place."""

    light: FloatImage
    """[S,S,3] linear."""
    through: FloatImage
    """[S,S] share of the wall's light that opaque matter lets through."""
    lamp: FloatImage
    """[S,S] light that arrives: what a white wall would send back, free of the wall's detail."""
    depth_mm: FloatImage
    """[S,S]; 0 where nothing is seen."""

    @property
    def size_px(self) -> int:
        return len(self.light)

    def cover(
        self,
        color: FloatImage,
        alpha: FloatImage,
        *,
        corner_xy: tuple[int, int] = (0, 0),
        opaque: bool,
    ) -> None:
        """Paint linear `color` [h,w,3] with `alpha` [h,w] over the window at a corner."""
        window = self._window(alpha, corner_xy)
        self.light[window] = cv2.blendLinear(color, self.light[window], alpha, 1 - alpha)
        if opaque:
            self.through[window] *= 1 - alpha

    def add(self, light: FloatImage, *, corner_xy: tuple[int, int] = (0, 0)) -> None:
        """Add white light [h,w] to the window at a corner."""
        window = self._window(light, corner_xy)
        self.light[window] += cv2.merge([light, light, light])

    def _window(self, part: FloatImage, corner_xy: tuple[int, int]) -> tuple[slice, slice]:
        x, y = corner_xy
        return slice(y, y + part.shape[0]), slice(x, x + part.shape[1])


@dataclass(frozen=True, kw_only=True)
class _Drift:
    """How far matter has moved since the middle of its episode."""

    zoom: float = 1.0
    shift_xy: tuple[float, float] = (0.0, 0.0)


NO_DRIFT = _Drift()


def _draw_drift(rng: np.random.Generator, *, event: Event, reach: float) -> _Drift:
    """Draw where matter goes as the camera passes it; over the episode it shifts by `reach`."""
    angle, growth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    away = reach * (event.progress - 0.5)
    return _Drift(
        zoom=float(np.exp(growth * (event.progress - 0.5))),
        shift_xy=(float(away * np.cos(angle)), float(away * np.sin(angle))),
    )


def _cloud(
    rng: np.random.Generator,
    *,
    size_px: int,
    cells: int,
    octaves: int,
    roughness: float = 0.6,
    drift: _Drift = NO_DRIFT,
    angle: float = 0.0,
    stretch: float = 1.0,
) -> FloatImage:
    """Return smooth noise [S,S] of mean 0 and deviation about 1.

    Args:
        rng: fixes it, whatever the size and the drift.
        size_px: S.
        cells: number of the largest blobs in a row.
        octaves: how often the detail is halved.
        roughness: deviation of each octave over that of the one before.
        drift: how far it has moved.
        angle: direction of `stretch` in radians.
        stretch: how much longer than wide its blobs are.
    """
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    for octave in range(1, octaves):
        side = 2 * len(grid)
        finer = rng.standard_normal((side, side), dtype=np.float32)
        coarse = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        grid = np.asarray(coarse + np.float32(roughness**octave) * finer, dtype=np.float32)
    grid = (grid - grid.mean()) / grid.std()
    # The picture shows seven tenths of the grid, so that there is more to come as it drifts.
    per_px = 0.7 * len(grid) / size_px / drift.zoom
    along, across = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    linear = per_px * (np.outer(along, along) / stretch + np.outer(across, across))
    center = (size_px - 1) / 2 + size_px * np.asarray(drift.shift_xy)
    offset = (len(grid) - 1) / 2 - linear @ center
    return cv2.warpAffine(  # type: ignore[return-value]
        grid,
        np.column_stack([linear, offset]),
        (size_px, size_px),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _relief(field: FloatImage) -> FloatImage:
    """Return how much a field [S,S] rises towards the lower right, per hundredth of the side."""
    kernel = np.array([[-1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=np.float32)
    return cv2.filter2D(field, -1, kernel * (len(field) / 283))  # type: ignore[return-value]


def _ramp(field: FloatImage, low: float, high: float) -> FloatImage:
    """Return 0 below `low`, 1 above `high`, a straight line between them."""
    risen = (field - np.float32(low)) * np.float32(1 / (high - low))
    return np.asarray(np.clip(risen, 0, 1), dtype=np.float32)


def _level_of_share(field: FloatImage, share: float) -> float:
    """Return the value that about `share` of a field [S,S] exceeds."""
    step = max(1, len(field) // 64)
    return float(np.quantile(field[::step, ::step], 1 - share))


def _tinted(light: NDArray[np.floating], *, albedo: NDArray[np.floating]) -> FloatImage:
    """Return `light` [h,w] times a color [3]."""
    return cv2.merge([light * np.float32(value) for value in albedo])  # type: ignore[return-value]


def _mixed(
    light: FloatImage,
    share: FloatImage,
    *,
    albedo: NDArray[np.floating],
    other: NDArray[np.floating],
) -> FloatImage:
    """Return `light` [h,w] times a mix of two colors [3], `share` [h,w] of the other one."""
    channels = [
        light * (np.float32(own) + np.float32(its - own) * share)
        for own, its in zip(albedo, other, strict=True)
    ]
    return cv2.merge(channels)  # type: ignore[return-value]


def _draw_down(rng: np.random.Generator) -> float:
    """Draw the direction of gravity in the picture, in radians: most often near to downwards."""
    return float(np.pi / 2 + rng.normal(0, 0.7))


def _fall_mm(canvas: _Canvas, *, down: float) -> tuple[FloatImage, FloatImage]:
    """Return how far below the camera each pixel's wall is, and its ray falls per mm, [S,S]."""
    across = (np.arange(canvas.size_px, dtype=np.float32) + 0.5) / (canvas.size_px / 2) - 1
    right, lower = across[None, :], across[:, None]
    half = np.float32(np.radians(ASSUMED_FOV_DEG / 2))
    squared = (half * half) * (right * right + lower * lower)
    # sin(x) / x, good to 1 % up to 2 rad.
    sinc = 1 + squared * (squared * np.float32(1 / 120 - 1 / 1800) - np.float32(1 / 6))
    fall = half * (np.float32(np.cos(down)) * right + np.float32(np.sin(down)) * lower) * sinc
    return canvas.depth_mm * fall, fall


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pool:
    """Fluid that has settled at the lowest wall in view."""

    alpha: FloatImage
    """[S,S] by the fluid that the eye looks through; 0 outside."""
    below_mm: FloatImage
    """[S,S] how far below the level the wall is; negative outside."""
    lit: FloatImage
    """[S,S] light that arrives at the surface, which is nearer than the wall."""


def _settle(canvas: _Canvas, *, down: float, share: float, turbidity_mm: float) -> _Pool:
    """Let fluid cover the lowest `share` of the picture's wall."""
    wall_mm, fall = _fall_mm(canvas, down=down)
    level_mm = np.float32(max(_level_of_share(wall_mm, share), 1.0))
    below_mm = wall_mm - level_mm
    through_mm = np.maximum(below_mm, 0) / np.maximum(fall, 0.05)
    # Scum and the lamp's reflection make the shore sharper than the murk alone.
    alpha = 0.3 + 0.7 * (1 - np.exp(through_mm * np.float32(-1 / turbidity_mm)))
    nearer = np.clip(wall_mm / level_mm, 1, 2)
    return _Pool(
        alpha=alpha * _ramp(below_mm, 0, 0.6),
        below_mm=below_mm,
        lit=np.minimum(canvas.lamp * nearer * nearer, np.maximum(canvas.lamp, 1)),
    )


STOOL_COLORS = np.array(
    [[0.68, 0.44, 0.07], [0.60, 0.34, 0.09], [0.42, 0.31, 0.07], [0.30, 0.16, 0.05]]
)
"""Linear albedo of yellow, ochre, olive and brown."""
STOOL_SHARES = ((0.4, 0.35, 0.2, 0.05), (0.05, 0.25, 0.3, 0.4))
"""How often a lump's crumbs, and its dark parts, have each color."""


def _paint_stool(canvas: _Canvas, event: Event) -> None:
    """Lumps and flakes, a turbid pool at the lowest wall, a stain around them."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.2)
    down = _draw_down(rng)
    has_pool, has_stain = rng.random(2) < (0.5, 0.6)
    coverage, pool_share = rng.uniform(0.02, 0.16), rng.uniform(0.08, 0.35)
    turbidity_mm = rng.uniform(0.8, 4)
    fresh, old = (
        STOOL_COLORS[rng.choice(len(STOOL_COLORS), p=shares)] * rng.uniform(0.8, 1.25)
        for shares in STOOL_SHARES
    )
    drift = _draw_drift(rng, event=event, reach=0.12)
    lumps = _cloud(rng, size_px=canvas.size_px, cells=7, octaves=6, roughness=0.68, drift=drift)
    blotches = _cloud(rng, size_px=canvas.size_px, cells=5, octaves=3, drift=drift)
    place = lumps + 0.9 * blotches
    if has_pool:
        pool = _settle(
            canvas, down=down, share=pool_share * event.strength, turbidity_mm=turbidity_mm
        )
        murky = _mixed(pool.lit, _ramp(blotches, -1.5, 2), albedo=fresh * 0.7, other=old)
        canvas.cover(murky, pool.alpha * np.float32(0.92 * shown), opaque=True)
        # Flakes gather where the fluid ends.
        place += 1.5 * np.exp(-np.square(pool.below_mm * np.float32(1 / 5)))
    else:
        wall_mm, _ = _fall_mm(canvas, down=down)
        place += _ramp(wall_mm, -10, 30)
    level = _level_of_share(place, coverage * event.strength)
    if has_stain:
        stain = _ramp(place, level - 2.0, level) * np.float32(0.35 * shown)
        canvas.cover(_tinted(canvas.lamp, albedo=fresh * (1.1, 0.9, 0.5)), stain, opaque=False)
    rise = _relief(lumps)
    # Lumps stand out most where they are thick, and are dark where they meet the wall.
    thick = _ramp(place, level - 0.1, level + 1.6)
    lit = canvas.lamp * np.clip(0.55 + 0.6 * thick - 0.5 * rise, 0.2, 1.7)
    color = _mixed(lit, _ramp(blotches - lumps, -1.2, 1.8), albedo=fresh, other=old)
    alpha = _ramp(place, level, level + 0.3) * np.float32(0.96 * shown)
    canvas.cover(color, alpha, opaque=True)
    canvas.add(2 * canvas.lamp * alpha * _ramp(-rise, 0.8, 1.2))


def _paint_mucus(canvas: _Canvas, event: Event) -> None:
    """Whitish or yellowish strands and films that let the wall through."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.3)
    albedo = np.array([0.85, 0.72, 0.42]) * [1, rng.uniform(0.85, 1.1), rng.uniform(0.5, 1.5)]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.5, 3)
    film_share, strand_width = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.12)
    drift = _draw_drift(rng, event=event, reach=0.15)
    film = _cloud(rng, size_px=canvas.size_px, cells=6, octaves=5, drift=drift)
    lines = _cloud(
        rng,
        size_px=canvas.size_px,
        cells=6,
        octaves=3,
        roughness=0.5,
        drift=drift,
        angle=angle,
        stretch=stretch,
    )
    level = _level_of_share(film, film_share * event.strength)
    near = _ramp(film, level - 1.2, level + 0.3)
    strands = np.exp(-np.square(lines * np.float32(1 / strand_width))) * near
    alpha = np.maximum(0.30 * _ramp(film, level, level + 1.2), 0.45 * strands)
    alpha *= np.float32(shown)
    rise = _relief(film)
    lit = canvas.lamp * np.clip(0.95 - 0.15 * rise, 0.5, 1.4)
    canvas.cover(_tinted(lit, albedo=albedo), alpha, opaque=False)
    canvas.add(canvas.lamp * alpha * _ramp(-rise, 0.35, 0.55) * 4)


def _paint_blood(canvas: _Canvas, event: Event) -> None:
    """Streaks that run down from a place, and often a pool of it."""
    rng, shown = looks_of(event), smooth_step(event.strength / 0.2)
    down = _draw_down(rng)
    source_xy, reach = rng.uniform(0.25, 0.75, size=2), rng.uniform(0.12, 0.3)
    has_pool, pool_share = rng.random() < 0.4, rng.uniform(0.03, 0.15)
    stretch = rng.uniform(1.5, 4)
    thin = np.array([0.50, 0.022, 0.016]) * rng.uniform(0.8, 1.3)
    thick = np.array([0.17, 0.006, 0.006]) * rng.uniform(0.8, 1.3)
    drift = _draw_drift(rng, event=event, reach=0.1)
    streaks = _cloud(
        rng,
        size_px=canvas.size_px,
        cells=8,
        octaves=5,
        drift=drift,
        angle=down,
        stretch=stretch,
    )
    away = (np.arange(canvas.size_px, dtype=np.float32) + 0.5) / canvas.size_px
    right, lower = (
        (away - np.float32(start + moved)) / np.float32(reach)
        for start, moved in zip(source_xy, drift.shift_xy, strict=True)
    )
    across = right[None, :] * np.float32(np.sin(down)) - lower[:, None] * np.float32(np.cos(down))
    along = right[None, :] * np.float32(np.cos(down)) + lower[:, None] * np.float32(np.sin(down))
    # It spreads further downwards than upwards.
    along = np.where(along > 0, along * np.float32(0.5), along * 2)
    thickness = 1.3 * streaks + np.float32(0.6) - 1.4 * (across * across + along * along)
    thickness = np.maximum(thickness + np.float32(event.strength - 1), 0)
    alpha = 1 - np.exp(-2.2 * thickness)
    if has_pool:
        pool = _settle(canvas, down=down, share=pool_share * event.strength, turbidity_mm=1.5)
        alpha = np.maximum(alpha, pool.alpha)
    alpha *= np.float32(0.95 * shown)
    rise = _relief(streaks)
    lit = canvas.lamp * np.clip(1 - 0.12 * rise, 0.5, 1.5)
    canvas.cover(_mixed(lit, alpha * alpha, albedo=thin, other=thick), alpha, opaque=True)
    canvas.add(2 * canvas.lamp * alpha * _ramp(-rise, 0.45, 0.7))


def _paint_bubbles(canvas: _Canvas, event: Event) -> None:
    """Clusters of clear bubbles, or a patch of foam."""
    rng = looks_of(event)
    is_foam = rng.random() < 0.3
    num_clusters = int(rng.integers(1, 4))
    size = canvas.size_px
    drift = _draw_drift(rng, event=event, reach=0.1)
    for _ in range(num_clusters):
        num_bubbles = int(rng.integers(120, 260) if is_foam else rng.integers(4, 40))
        radius = 0.010 if is_foam else rng.uniform(0.012, 0.022)
        # Bubbles crowd: they cover about the area over which they are spread.
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
    canvas: _Canvas,
    *,
    places_px: NDArray[np.float64],
    radii_px: NDArray[np.float64],
    haze: float,
    light_angle: float,
) -> None:
    """Paint bubbles [N,2] of one cluster; later ones lie over earlier ones.

    Args:
        canvas: what to paint on.
        places_px: centers.
        radii_px: [N].
        haze: alpha of the white that many walls of fluid make, 0..1.
        light_angle: where the highlights sit on the bubbles, in radians.
    """
    margin = float(radii_px.max()) + 3
    low = np.clip(np.floor(places_px.min(axis=0) - margin), 0, canvas.size_px).astype(int)
    high = np.clip(np.ceil(places_px.max(axis=0) + margin), 0, canvas.size_px).astype(int)
    width, height = (int(side) for side in high - low)
    if width < 2 or height < 2:
        return
    # Channels: body, rim, highlight. Coordinates have four binary places.
    drawn: ByteImage = np.zeros((height, width, 3), dtype=np.uint8)
    line = max(1, round(canvas.size_px / 400))
    glint = np.array([np.cos(light_angle), np.sin(light_angle)])
    for place, radius in zip(places_px - low, radii_px, strict=True):
        middle = _fixed(place)
        cv2.circle(drawn, middle, round(radius * 16), (255, 40, 0), cv2.FILLED, cv2.LINE_AA, 4)
        cv2.circle(drawn, middle, round(radius * 16), (255, 150, 0), line, cv2.LINE_AA, 4)
        if radius > 2:
            spot = _fixed(place + 0.55 * radius * glint)
            spot_radius = round(max(0.16 * radius, 0.6) * 16)
            bright = 255 if radius > 4 else 140
            cv2.circle(drawn, spot, spot_radius, (255, 255, bright), cv2.FILLED, cv2.LINE_AA, 4)
            if radius > 4:
                opposite = _fixed(place - 0.6 * radius * glint)
                cv2.circle(
                    drawn, opposite, spot_radius // 2, (255, 200, 90), cv2.FILLED, cv2.LINE_AA, 4
                )
    body, rim, highlight = cv2.split(drawn.astype(np.float32) / 255)
    x, y = (int(side) for side in low)
    window = (slice(y, y + height), slice(x, x + width))
    lamp = canvas.lamp[window]
    # A bubble's flank turns light away, so it is darker than the wall behind it.
    shade = 1 - 0.22 * body * (1 - rim)
    light = canvas.light[window]
    light *= cv2.merge([shade, shade, shade])
    if haze:
        white = _tinted(lamp * (0.55 + 0.45 * rim), albedo=np.array([0.88, 0.84, 0.72]))
        crowd = cv2.blur(body, (2 * (width // 16) + 1, 2 * (height // 16) + 1))
        canvas.cover(white, body * crowd * np.float32(haze), corner_xy=(x, y), opaque=True)
    canvas.add(lamp * (0.35 * rim * rim + 1.6 * highlight), corner_xy=(x, y))


def _fixed(point_xy: NDArray[np.float64]) -> tuple[int, int]:
    """Return a point as OpenCV takes it with four binary places, from a pixel's center."""
    return round(float(point_xy[0] - 0.5) * 16), round(float(point_xy[1] - 0.5) * 16)


@dataclass(frozen=True, kw_only=True)
class _Tool:
    """What comes out of the working channel."""

    albedo: tuple[float, float, float]
    """Color of its sheath, linear."""
    gloss: float
    tip: Literal["open", "loop", "jaws"]
    width: float
    """Of the sheath at its tip; towards the border it grows."""


TOOLS = (
    _Tool(albedo=(0.62, 0.58, 0.74), gloss=0.5, tip="open", width=0.075),
    _Tool(albedo=(0.80, 0.80, 0.76), gloss=0.8, tip="loop", width=0.06),
    _Tool(albedo=(0.20, 0.36, 0.62), gloss=0.9, tip="loop", width=0.055),
    _Tool(albedo=(0.30, 0.31, 0.33), gloss=1.4, tip="jaws", width=0.05),
    _Tool(albedo=(0.06, 0.06, 0.07), gloss=0.9, tip="open", width=0.085),
)


def _paint_instrument(canvas: _Canvas, event: Event) -> None:
    """Paint a sheath that comes in over the border, with a snare's loop or a forceps' jaws."""
    rng, size = looks_of(event), canvas.size_px
    tool = TOOLS[int(rng.integers(len(TOOLS)))]
    side = np.radians(45 if rng.random() < 0.7 else rng.uniform(0, 360)) + rng.normal(0, 0.25)
    aim, bend = rng.normal(0, 0.12, size=2), rng.normal(0, 0.06)
    width = tool.width * rng.uniform(0.8, 1.25)
    stop, widening = rng.uniform(0.1, 0.35), rng.uniform(1.5, 2.3)
    highlight_at, sway = rng.uniform(-0.5, 0.1), rng.uniform(0, 2 * np.pi)
    outwards = np.array([np.cos(side), np.sin(side)])
    entry = 0.5 + 0.5 * outwards / np.abs(outwards).max()
    target = 0.5 + stop * outwards + aim + 0.02 * np.sin(sway + 2 * np.pi * event.progress)
    way = target - entry
    ahead = way / np.hypot(*way)
    start = entry - 0.06 * ahead
    length = float(np.hypot(*way) + 0.06) * event.strength**0.6
    across = np.array([-ahead[1], ahead[0]])
    ends = np.stack([start, start + ahead * length])
    half_start = width * widening / 2
    low = np.clip((ends.min(axis=0) - half_start - abs(bend)) * size, 0, size).astype(int)
    high = np.clip(np.ceil((ends.max(axis=0) + half_start + abs(bend)) * size), 0, size).astype(int)
    tip = start + ahead * length + across * bend * length**2
    heading = ahead + 2 * bend * length * across
    if tool.tip != "open":
        _paint_tip(
            canvas, tool=tool, tip=tip, ahead=heading / np.hypot(*heading), width=width, event=event
        )
    if (high <= low).any():
        return
    xs = (np.arange(low[0], high[0], dtype=np.float32) + 0.5) / size
    ys = (np.arange(low[1], high[1], dtype=np.float32) + 0.5) / size
    right, lower = xs[None, :] - np.float32(start[0]), ys[:, None] - np.float32(start[1])
    along = right * np.float32(ahead[0]) + lower * np.float32(ahead[1])
    beside = right * np.float32(across[0]) + lower * np.float32(across[1])
    beside = beside - np.float32(bend) * along * along
    share = along * np.float32(1 / max(length, 1e-6))
    half = np.float32(width / 2) * (1 + np.float32(widening - 1) * (1 - share))
    round_off = beside / half
    # The end is seen a little from the side, so it is cut in a curve.
    end = np.float32(length) - along + 0.25 * half * (1 - round_off * round_off)
    inside = np.minimum(half - np.abs(beside), end)
    alpha = _ramp(inside * np.float32(size), -0.6, 0.9)
    facing = np.sqrt(np.maximum(1 - round_off * round_off, 0))
    streak = np.exp(-np.square((round_off - np.float32(highlight_at)) * np.float32(1 / 0.13)))
    near = np.clip(1 - share, 0, 1)
    lit = (0.30 + 0.55 * facing) * (0.55 + 1.1 * near * near)
    color = _tinted(lit, albedo=np.array(tool.albedo))
    shine = tool.gloss * streak * (0.5 + 0.8 * near)
    color += cv2.merge([shine, shine, shine])
    corner = (int(low[0]), int(low[1]))
    canvas.cover(color, alpha, corner_xy=corner, opaque=True)


def _paint_tip(
    canvas: _Canvas,
    *,
    tool: _Tool,
    tip: NDArray[np.float64],
    ahead: NDArray[np.float64],
    width: float,
    event: Event,
) -> None:
    """Paint the wire loop of a snare or the open jaws of a forceps in front of the sheath."""
    size, open_share = canvas.size_px, smooth_step((event.strength - 0.3) / 0.5)
    across = np.array([-ahead[1], ahead[0]])
    turn = np.linspace(0, 2 * np.pi, 49)
    drawn: ByteImage = np.zeros((size, size), dtype=np.uint8)
    shine: ByteImage = np.zeros((size, size), dtype=np.uint8)
    if tool.tip == "loop":
        if open_share == 0:
            return
        long, wide = 0.13 * open_share, 0.065 * open_share
        # Pointed at both ends, as a snare is.
        path = np.outer(long * (1 - np.cos(turn)), ahead) + np.outer(
            wide * np.sin(turn) * np.abs(np.sin(turn)) ** 0.4, across
        )
        line = max(1, round(0.007 * size))
        points = np.rint(((tip + path) * size - 0.5) * 16).astype(np.int32)
        cv2.polylines(drawn, [points], True, 255, line, cv2.LINE_AA, 4)
        cv2.polylines(shine, [points[4:14]], False, 255, max(1, line // 2), cv2.LINE_AA, 4)
    else:
        for sign in (-1, 1):
            spread = sign * np.radians(10 + 25 * open_share)
            jaw = np.cos(spread) * ahead + np.sin(spread) * across
            middle = tip + 0.85 * width * min(1.0, 3 * event.strength) * jaw
            axes = np.array([0.95, 0.34]) * width * min(1.0, 3 * event.strength)
            angle = float(np.degrees(np.arctan2(jaw[1], jaw[0])))
            place = _fixed(middle * size)
            fixed_axes = [max(1, round(float(axis) * size * 16)) for axis in axes]
            cv2.ellipse(drawn, place, fixed_axes, angle, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, 4)
            spot = _fixed((middle - 0.12 * width * across) * size)
            thin = [max(1, axis // 3) for axis in fixed_axes]
            cv2.ellipse(shine, spot, thin, angle, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, 4)
    x, y, wide_px, high_px = cv2.boundingRect(drawn)
    if not wide_px:
        return
    window = (slice(y, y + high_px), slice(x, x + wide_px))
    alpha = drawn[window].astype(np.float32) * np.float32(1 / 255)
    glint = shine[window].astype(np.float32) / 255
    canvas.cover(
        _tinted(0.22 + 0.8 * glint, albedo=np.array([0.95, 0.97, 1.0])),
        alpha,
        corner_xy=(x, y),
        opaque=True,
    )


MATTER: dict[Kind, Callable[[_Canvas, Event], None]] = {
    "mucus": _paint_mucus,
    "stool": _paint_stool,
    "blood": _paint_blood,
    "bubbles": _paint_bubbles,
    "instrument": _paint_instrument,
}
"""Kinds of matter, from the wall towards the lens."""


def paint_matter(
    linear: FloatImage, *, depth_mm: FloatImage, events: tuple[Event, ...]
) -> tuple[FloatImage, Mask]:
    """Paint what lies on the wall or hangs before it.

    Args:
        linear: the wall's light [S,S,3].
        depth_mm: distance of the wall along each pixel's ray [S,S]; 0 where there is none.
        events: kinds that are no matter are left to the other functions.

    Returns:
        The light [S,S,3], and where opaque matter hides at least half of the wall, bool [S,S].
    """
    here = [event for kind in MATTER for event in events if event.kind == kind]
    if not here:
        return linear, np.zeros(depth_mm.shape, dtype=bool)
    canvas = _Canvas(
        light=linear.copy(),
        through=np.ones_like(depth_mm),
        lamp=_light_that_arrives(linear, depth_mm=depth_mm),
        depth_mm=depth_mm,
    )
    for event in here:
        MATTER[event.kind](canvas, event)
    return canvas.light, canvas.through <= 1 - OPAQUE


def _light_that_arrives(linear: FloatImage, *, depth_mm: FloatImage) -> FloatImage:
    """Return what a white wall would send back, smooth, [S,S]."""
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
