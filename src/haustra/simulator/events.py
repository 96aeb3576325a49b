"""Which frames are disturbed by what: stills one by one, procedures in episodes.

An event's seed fixes its looks, so that frames of one episode fit together. Nothing here knows
polyps.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from haustra.simulator.noise import smooth_step

Kind = Literal[
    "bubbles",
    "stool",
    "mucus",
    "blood",
    "instrument",
    "lens_fluid",
    "overexposure",
    "motion_blur",
    "defocus",
    "interlacing",
    "noise",
    "compression",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

RATES: dict[Kind, float] = {
    "bubbles": 0.08,
    "stool": 0.12,
    "mucus": 0.12,
    "blood": 0.06,
    "instrument": 0.05,
    "lens_fluid": 0.03,
    "overexposure": 0.12,
    "motion_blur": 0.08,
    "defocus": 0.08,
    "interlacing": 0.04,
    "noise": 0.12,
    "compression": 0.20,
}
"""Share of stills with each kind."""
PROCEDURE_SHARE = 0.15
"""Factor on `RATES` for the frames of a procedure."""
EPISODE_S: dict[Kind, float] = {
    "bubbles": 4.0,
    "stool": 5.0,
    "mucus": 5.0,
    "blood": 6.0,
    "instrument": 6.0,
    "lens_fluid": 3.0,
    "overexposure": 1.0,
    "motion_blur": 0.3,
    "defocus": 1.0,
    "interlacing": 0.5,
    "noise": 3.0,
    "compression": 2.0,
}
"""Mean length of an episode in a procedure, in seconds."""
MAX_EPISODE_SHARE = 0.08
"""Mean length of an episode as a share of the run's, at most: short runs have short episodes."""
MAX_BUSY_SHARE = 0.2
"""Share of a procedure's frames that may have any event."""
FADE_SHARE = 0.25
"""Part of an episode over which it grows, and over which it fades."""
MIN_STRENGTH = 0.05
"""Weaker than this and the frame counts as free of the event."""
STILL_STRENGTH = (0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One disturbance in one frame."""

    kind: Kind
    seed: int
    """Fixes its looks over the episode."""
    strength: float
    """0..1."""
    progress: float
    """0..1 of its episode; 0.5 in a still."""


def plan_events(
    num_frames: int, *, frame_rate_hz: float, stills: bool, rng: np.random.Generator
) -> list[tuple[Event, ...]]:
    """Draw the events of each frame of a run.

    Stills draw their events independently. In a procedure events come in episodes that grow, stay
    and fade; whole episodes are left out again, at random, until `1 - MAX_BUSY_SHARE` of the
    frames have no event.

    Args:
        num_frames: how many frames the run has.
        frame_rate_hz: their distance in time.
        stills: whether the frames are single views instead of a procedure.
        rng: fixes everything.
    """
    if stills:
        return [_draw_still(rng) for _ in range(num_frames)]
    episodes = [
        _frames_of_episode(kind, start_s, length_s, num_frames, frame_rate_hz, rng)
        for kind, start_s, length_s in _draw_episodes(num_frames / frame_rate_hz, rng)
    ]
    rng.shuffle(episodes)
    while episodes and len(set().union(*episodes)) > MAX_BUSY_SHARE * num_frames:
        episodes.pop()
    plan: list[tuple[Event, ...]] = []
    for frame in range(num_frames):
        events = [episode[frame] for episode in episodes if frame in episode]
        plan.append(tuple(sorted(events, key=lambda event: KINDS.index(event.kind))))
    return plan


def _draw_still(rng: np.random.Generator) -> tuple[Event, ...]:
    chances = rng.random(len(KINDS))
    return tuple(
        Event(
            kind=kind,
            seed=int(rng.integers(2**31)),
            strength=float(rng.uniform(*STILL_STRENGTH)),
            progress=0.5,
        )
        for kind, chance in zip(KINDS, chances, strict=True)
        if chance < RATES[kind]
    )


def _draw_episodes(duration_s: float, rng: np.random.Generator) -> list[tuple[Kind, float, float]]:
    """Return kind, start and length in seconds; the first may have begun before the run."""
    episodes = []
    for kind in KINDS:
        mean_s = min(EPISODE_S[kind], MAX_EPISODE_SHARE * duration_s)
        share = PROCEDURE_SHARE * RATES[kind]
        for _ in range(rng.poisson(share * (duration_s + mean_s) / mean_s)):
            length_s = mean_s * rng.uniform(0.5, 1.5)
            episodes.append((kind, rng.uniform(-length_s, duration_s), length_s))
    return episodes


def _frames_of_episode(
    kind: Kind,
    start_s: float,
    length_s: float,
    num_frames: int,
    frame_rate_hz: float,
    rng: np.random.Generator,
) -> dict[int, Event]:
    """Return the event of each frame in which the episode can be seen."""
    seed, peak = int(rng.integers(2**31)), rng.uniform(0.35, 1.0)
    first = max(0, int(np.ceil(start_s * frame_rate_hz)))
    frames = {}
    for frame in range(first, num_frames):
        progress = (frame / frame_rate_hz - start_s) / length_s
        if progress >= 1:
            break
        strength = peak * smooth_step(min(progress, 1 - progress) / FADE_SHARE)
        if strength >= MIN_STRENGTH:
            frames[frame] = Event(kind=kind, seed=seed, strength=strength, progress=progress)
    return frames


def looks_of(event: Event) -> np.random.Generator:
    """Return the generator of what stays the same over an episode."""
    return np.random.default_rng([event.seed, KINDS.index(event.kind)])
