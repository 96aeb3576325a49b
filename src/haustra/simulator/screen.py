"""Overlays of endoscopes: lines of text, and a square in a corner."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.effects import put_text
from haustra.simulator.noise import smooth_wave

ByteImage = NDArray[np.uint8]
Mask = NDArray[np.bool_]

Color = tuple[int, int, int]

TEXT_SHARE = 0.5  # share of runs with text on the screen
SQUARE_SHARE = 0.4  # share of runs with the square of a scope guide
TEXT_COLORS: tuple[Color, ...] = ((235, 235, 235), (190, 190, 190), (235, 225, 110))
SQUARE_COLORS: tuple[tuple[Color, Color], ...] = (
    ((0, 0, 0), (60, 200, 120)),
    ((20, 165, 135), (25, 35, 30)),
    ((15, 25, 60), (225, 225, 225)),
)
"""Colors of the square and of the drawing in it."""
SCOPES = ("CF-HQ190L", "CF-H180AL", "PCF-H190", "EC-760R", "EC-600WL", "EC38-i10L")
LAYOUTS = (
    "{date}\n{clock}\nCVP:{photo}\nD:N     Eh:A5",
    "Name:\n\nSex:   Age:\nD.O.B.:\n{date}\n{clock}\n\n{elapsed}\n\n\n{photo}/{photo}\nEh:A1 Cm:1",
    "ID {number}\n{date} {clock}\n{scope}",
    "{scope}\n{elapsed}\nNo.{frame}",
    "{date}\n{clock}",
)
"""Texts on the screen; fields in braces are filled in for each frame."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Lines of small letters on the screen."""

    layout: str
    corner_xy: tuple[float, float]
    """Start of the first line as shares of the side; text outside the picture is cut off."""
    height: float  # height of a capital letter, as a share of the side
    color: Color
    fields: dict[str, str]  # fields that are constant over the run
    clock_s: int  # time of day at the start
    elapsed_s: int  # duration of the examination at the start


@dataclass(frozen=True, kw_only=True)
class Square:
    """The square of a scope guide in the lower left corner, blank or with a drawing."""

    side: float  # share of the picture's side
    color: Color
    line_color: Color
    path: tuple[tuple[float, float], ...]
    """Points of the scope's drawing as shares of the square; empty if it is blank."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Overlays of a run."""

    text: Text | None
    square: Square | None


def draw_screen(rng: np.random.Generator) -> Screen:
    """Draw the overlays of a run."""
    has_text, has_square = rng.random(2) < (TEXT_SHARE, SQUARE_SHARE)
    text, square = _draw_text(rng), _draw_square(rng)
    return Screen(text=text if has_text else None, square=square if has_square else None)


def _draw_text(rng: np.random.Generator) -> Text:
    layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    at_left = rng.random() < 0.8
    year, month, day = rng.integers([2008, 1, 1], [2025, 13, 29])
    date = rng.choice(["{2:02}/{1:02}/{0}", "{0}-{1:02}-{2:02}", "{2:02}.{1:02}.{0}"])
    return Text(
        layout=layout,
        corner_xy=(
            float(rng.uniform(-0.03, 0.02) if at_left else rng.uniform(0.66, 0.75)),
            float(rng.uniform(0.05, 0.3) if at_left else rng.choice([0.05, 0.85])),
        ),
        height=rng.uniform(0.014, 0.024),
        color=TEXT_COLORS[rng.choice(len(TEXT_COLORS), p=[0.6, 0.25, 0.15])],
        fields={
            "date": str(date).format(year, month, day),
            "photo": str(rng.integers(1, 9)),
            "number": f"{rng.integers(10**7):07}",
            "scope": str(rng.choice(SCOPES)),
        },
        clock_s=int(rng.integers(8 * 3600, 17 * 3600)),
        elapsed_s=int(rng.integers(0, 2400)),
    )


def _draw_square(rng: np.random.Generator) -> Square:
    color, line_color = SQUARE_COLORS[rng.choice(len(SQUARE_COLORS), p=[0.75, 0.17, 0.08])]
    is_blank = color == (0, 0, 0) and rng.random() < 0.7
    # The shaft enters from below and winds randomly.
    turns = smooth_wave(np.linspace(0, 1, 48), wavelengths=(0.5, 1.5), rng=rng)
    heading = rng.uniform(2.5, 5.0) * (turns - turns[0]) - np.pi / 2
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)]), axis=1)
    path -= path.min(axis=1, keepdims=True)
    path = 0.15 + 0.7 * path / path.max()
    return Square(
        side=rng.uniform(0.2, 0.32),
        color=color,
        line_color=line_color,
        path=() if is_blank else tuple((x, y) for x, y in path.T.tolist()),
    )


def paint_screen(
    levels: ByteImage, screen: Screen, *, frame_number: int, seconds: float
) -> tuple[ByteImage, Mask]:
    """Paint a run's overlays over a picture [S,S,3] that already has its black border.

    Returns:
        The picture, uint8 [S,S,3], and the covered pixels, bool [S,S]. Letters cover nothing.
    """
    covered, painted = np.zeros(levels.shape[:2], dtype=bool), levels.copy()
    if screen.square is not None:
        side = round(screen.square.side * len(levels))
        covered[-side:, :side] = True
        painted[-side:, :side] = _square_picture(screen.square, side=side)
    if screen.text is not None:
        _paint_text(painted, screen.text, frame_number=frame_number, seconds=seconds)
    return painted, covered


def _square_picture(square: Square, *, side: int) -> ByteImage:
    drawn = np.full((side, side, 3), square.color, dtype=np.uint8)
    if square.path:
        points = np.rint(np.array(square.path) * side * 16).astype(np.int32)
        line = max(1, round(0.014 * side))
        cv2.polylines(drawn, [points], False, square.line_color, line, cv2.LINE_AA, 4)
    return drawn


def _paint_text(levels: ByteImage, text: Text, *, frame_number: int, seconds: float) -> None:
    size = len(levels)
    fields = {
        **text.fields,
        "clock": _as_clock(text.clock_s + seconds),
        "elapsed": _as_clock(text.elapsed_s + seconds),
        "frame": f"{frame_number:05}",
    }
    height_px = max(text.height * size, 4.0)
    for row, line in enumerate(text.layout.splitlines()):
        x = round(text.corner_xy[0] * size)
        y = round(text.corner_xy[1] * size + (1.65 * row + 1) * height_px)
        put_text(
            levels,
            line.format(**fields),
            bottom_left_xy=(x, y),
            scale=height_px / 21,
            color=text.color,
            thickness=max(1, round(height_px / 9)),
        )


def _as_clock(seconds: float) -> str:
    """Return a time of day or a duration as hh:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600 % 24:02}:{whole // 60 % 60:02}:{whole % 60:02}"
