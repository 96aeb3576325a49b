"""Plan of the disturbances of a run: independent in stills, in episodes in procedures.

An event's seed fixes its looks, so that the frames of one episode are consistent. Events do not
depend on polyps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from haustra.simulator.noise import FloatArray, smooth_step

# Share of stills with each kind, and mean length of an episode in a procedure in seconds.
_RATES_AND_EPISODES_S = {
    "bubbles": (0.08, 4.0),
    "stool": (0.12, 5.0),
    "mucus": (0.12, 5.0),
    "blood": (0.06, 6.0),
    "instrument": (0.05, 6.0),
    "lens_fluid": (0.03, 3.0),
    "overexposure": (0.12, 1.0),
    "motion_blur": (0.08, 0.3),
    "defocus": (0.08, 1.0),
    "interlacing": (0.04, 0.5),
    "noise": (0.12, 3.0),
    "compression": (0.20, 2.0),
}
KINDS = tuple(_RATES_AND_EPISODES_S)
RATES = {kind: rate for kind, (rate, _) in _RATES_AND_EPISODES_S.items()}
EPISODE_S = {kind: length_s for kind, (_, length_s) in _RATES_AND_EPISODES_S.items()}
PROCEDURE_SHARE = 0.15  # factor on `RATES` for the frames of a procedure
MAX_EPISODE_SHARE = 0.08  # largest mean length of an episode as a share of the run
MAX_BUSY_SHARE = 0.2  # largest share of a procedure's frames with events
FADE_SHARE = 0.25  # share of an episode in which it grows, and in which it fades
MIN_STRENGTH = 0.05  # weaker events are left out
STILL_STRENGTH = (0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One disturbance in one frame."""

    kind: str  # one of `KINDS`
    seed: int  # determines its looks over the episode
    strength: float  # 0..1
    progress: float = 0.5  # position in its episode, 0..1


def plan_events(
    num_frames: int, *, frame_rate_hz: float, stills: bool, rng: np.random.Generator
) -> list[tuple[Event, ...]]:
    """Draw the events of each frame of a run.

    Events of stills are independent. In a procedure, events come in episodes that grow, stay and
    fade; random episodes are removed until at most `MAX_BUSY_SHARE` of the frames have events.
    """
    if stills:
        return [_draw_still(rng) for _ in range(num_frames)]
    times_s = np.arange(num_frames) / frame_rate_hz
    episodes = [
        _frames_of_episode(kind, (times_s - start_s) / length_s, rng)
        for kind, start_s, length_s in _draw_episodes(num_frames / frame_rate_hz, rng)
    ]
    rng.shuffle(episodes)
    while episodes and len(set().union(*episodes)) > MAX_BUSY_SHARE * num_frames:
        episodes.pop()
    return [
        tuple(episode[frame] for episode in episodes if frame in episode)
        for frame in range(num_frames)
    ]


def _draw_still(rng: np.random.Generator) -> tuple[Event, ...]:
    chances = rng.random(len(KINDS))
    return tuple(
        Event(kind=kind, seed=int(rng.integers(2**31)), strength=rng.uniform(*STILL_STRENGTH))
        for kind, chance in zip(KINDS, chances, strict=True)
        if chance < RATES[kind]
    )


def _draw_episodes(duration_s: float, rng: np.random.Generator) -> list[tuple[str, float, float]]:
    """Return kind, start and length in seconds; the first may begin before the run."""
    episodes = []
    for kind in KINDS:
        mean_s = min(EPISODE_S[kind], MAX_EPISODE_SHARE * duration_s)
        share = PROCEDURE_SHARE * RATES[kind]
        for _ in range(rng.poisson(share * (duration_s + mean_s) / mean_s)):
            length_s = mean_s * rng.uniform(0.5, 1.5)
            episodes.append((kind, rng.uniform(-length_s, duration_s), length_s))
    return episodes


def _frames_of_episode(
    kind: str, progress_of_frames: FloatArray, rng: np.random.Generator
) -> dict[int, Event]:
    """Return the event of each frame in which the episode is visible."""
    seed, peak = int(rng.integers(2**31)), rng.uniform(0.35, 1.0)
    frames = {}
    for frame in np.flatnonzero(np.abs(progress_of_frames - 0.5) < 0.5).tolist():
        progress = float(progress_of_frames[frame])
        strength = peak * smooth_step(min(progress, 1 - progress) / FADE_SHARE)
        if strength >= MIN_STRENGTH:
            frames[frame] = Event(kind=kind, seed=seed, strength=strength, progress=progress)
    return frames


def in_order(events: Iterable[Event], kinds: Iterable[str]) -> list[Event]:
    """Return the events of some kinds, in the order of the kinds."""
    return [event for kind in kinds for event in events if event.kind == kind]


def looks_of(event: Event) -> np.random.Generator:
    """Return the random generator of the properties that are constant over an episode."""
    return np.random.default_rng([event.seed, KINDS.index(event.kind)])
