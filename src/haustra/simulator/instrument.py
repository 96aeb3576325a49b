"""Instruments that come out of the working channel: a sheath with a snare's loop or jaws.

S is the side of the square picture in pixels; lengths are shares of it unless a name says
otherwise.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from haustra.simulator.canvas import ByteImage, Canvas, in_sixteenths, ramp, tinted, window_around
from haustra.simulator.events import Event, looks_of
from haustra.simulator.noise import FloatArray, smooth_step


class Tool(NamedTuple):
    """An instrument."""

    albedo: tuple[float, float, float]  # linear color of its sheath
    gloss: float
    tip: Literal["open", "loop", "jaws"]
    width: float  # width of the sheath at its tip; it grows toward the picture's border


TOOLS = (
    Tool((0.62, 0.58, 0.74), gloss=0.5, tip="open", width=0.075),
    Tool((0.80, 0.80, 0.76), gloss=0.8, tip="loop", width=0.06),
    Tool((0.20, 0.36, 0.62), gloss=0.9, tip="loop", width=0.055),
    Tool((0.30, 0.31, 0.33), gloss=1.4, tip="jaws", width=0.05),
    Tool((0.06, 0.06, 0.07), gloss=0.9, tip="open", width=0.085),
)


def paint_instrument(canvas: Canvas, event: Event) -> None:
    """Paint a sheath that enters over the border, and its tip."""
    rng, size = looks_of(event), canvas.size_px
    tool = TOOLS[int(rng.integers(len(TOOLS)))]
    side = np.radians(45 if rng.random() < 0.7 else rng.uniform(0, 360)) + rng.normal(0, 0.25)
    aim, bend = rng.normal(0, 0.12, size=2), rng.normal(0, 0.06)
    width = tool.width * rng.uniform(0.8, 1.25)
    stop, widening = rng.uniform(0.1, 0.35), rng.uniform(1.5, 2.3)
    highlight_at, sway = rng.uniform(-0.5, 0.1), rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(side), np.sin(side)])
    entry = 0.5 + 0.5 * outward / np.abs(outward).max()
    target = 0.5 + stop * outward + aim + 0.02 * np.sin(sway + 2 * np.pi * event.progress)
    way = target - entry
    ahead = way / np.hypot(*way)
    start = entry - 0.06 * ahead
    length = float(np.hypot(*way) + 0.06) * event.strength**0.6
    across = np.array([-ahead[1], ahead[0]])
    ends = np.stack([start, start + ahead * length])
    tip = start + ahead * length + across * bend * length**2
    heading = ahead + 2 * bend * length * across
    heading /= np.hypot(*heading)
    if tool.tip == "loop":
        _paint_loop(canvas, tip=tip, ahead=heading, strength=event.strength)
    elif tool.tip == "jaws":
        _paint_jaws(canvas, tip=tip, ahead=heading, width=width, strength=event.strength)
    margin_px = (width * widening / 2 + abs(bend)) * size
    window = window_around(ends * size, margin_px=margin_px, size_px=size)
    ys, xs = ((np.arange(size, dtype=np.float32)[part] + 0.5) / size for part in window)
    if not (len(xs) and len(ys)):
        return
    right, lower = xs[None, :] - np.float32(start[0]), ys[:, None] - np.float32(start[1])
    along = right * np.float32(ahead[0]) + lower * np.float32(ahead[1])
    beside = right * np.float32(across[0]) + lower * np.float32(across[1])
    beside = beside - np.float32(bend) * along * along
    share = along * np.float32(1 / max(length, 1e-6))
    half = np.float32(width / 2) * (1 + np.float32(widening - 1) * (1 - share))
    round_off = beside / half
    # The end is seen slightly from the side, so its edge is curved.
    end = np.float32(length) - along + 0.25 * half * (1 - round_off * round_off)
    inside = np.minimum(half - np.abs(beside), end)
    alpha = ramp(inside * np.float32(size), -0.6, 0.9)
    facing = np.sqrt(np.maximum(1 - round_off * round_off, 0))
    streak = np.exp(-np.square((round_off - np.float32(highlight_at)) * np.float32(1 / 0.13)))
    near = np.clip(1 - share, 0, 1)
    lit = (0.30 + 0.55 * facing) * (0.55 + 1.1 * near * near)
    color = tinted(lit, albedo=np.array(tool.albedo))
    shine = tool.gloss * streak * (0.5 + 0.8 * near)
    color += cv2.merge([shine, shine, shine])
    canvas.cover(color, alpha, window=window, opaque=True)


def _paint_loop(canvas: Canvas, *, tip: FloatArray, ahead: FloatArray, strength: float) -> None:
    """Paint the wire loop of a snare, pointed at both ends, in front of the sheath."""
    size, open_share = canvas.size_px, smooth_step((strength - 0.3) / 0.5)
    if open_share == 0:
        return
    across = np.array([-ahead[1], ahead[0]])
    turn = np.linspace(0, 2 * np.pi, 49)
    long, wide = 0.13 * open_share, 0.065 * open_share
    path = np.outer(long * (1 - np.cos(turn)), ahead) + np.outer(
        wide * np.sin(turn) * np.abs(np.sin(turn)) ** 0.4, across
    )
    drawn, shine = np.zeros((2, size, size), dtype=np.uint8)
    line = max(1, round(0.007 * size))
    points = np.rint(((tip + path) * size - 0.5) * 16).astype(np.int32)
    cv2.polylines(drawn, [points], True, 255, line, cv2.LINE_AA, 4)
    cv2.polylines(shine, [points[4:14]], False, 255, max(1, line // 2), cv2.LINE_AA, 4)
    _cover_metal(canvas, drawn=drawn, shine=shine)


def _paint_jaws(
    canvas: Canvas, *, tip: FloatArray, ahead: FloatArray, width: float, strength: float
) -> None:
    """Paint the open jaws of a forceps in front of the sheath."""
    size, open_share = canvas.size_px, smooth_step((strength - 0.3) / 0.5)
    across = np.array([-ahead[1], ahead[0]])
    drawn, shine = np.zeros((2, size, size), dtype=np.uint8)
    for sign in (-1, 1):
        spread = sign * np.radians(10 + 25 * open_share)
        jaw = np.cos(spread) * ahead + np.sin(spread) * across
        middle = tip + 0.85 * width * min(1.0, 3 * strength) * jaw
        axes = np.array([0.95, 0.34]) * width * min(1.0, 3 * strength)
        angle = float(np.degrees(np.arctan2(jaw[1], jaw[0])))
        place = in_sixteenths(middle * size)
        long_wide = [max(1, round(float(axis) * size * 16)) for axis in axes]
        cv2.ellipse(drawn, place, long_wide, angle, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, 4)
        spot = in_sixteenths((middle - 0.12 * width * across) * size)
        thin = [max(1, axis // 3) for axis in long_wide]
        cv2.ellipse(shine, spot, thin, angle, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, 4)
    _cover_metal(canvas, drawn=drawn, shine=shine)


def _cover_metal(canvas: Canvas, *, drawn: ByteImage, shine: ByteImage) -> None:
    """Paint metal where `drawn` [S,S] is set, bright where `shine` [S,S] is."""
    x, y, width, height = cv2.boundingRect(drawn)
    if not width:
        return
    window = (slice(y, y + height), slice(x, x + width))
    alpha = drawn[window].astype(np.float32) * np.float32(1 / 255)
    glint = shine[window].astype(np.float32) / 255
    metal = tinted(0.22 + 0.8 * glint, albedo=np.array([0.95, 0.97, 1.0]))
    canvas.cover(metal, alpha, window=window, opaque=True)
