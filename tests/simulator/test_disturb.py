import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.simulator.events import (
    EPISODE_S,
    KINDS,
    MAX_BUSY_SHARE,
    PROCEDURE_SHARE,
    RATES,
    Event,
    plan_events,
)
from haustra.simulator.matter import MATTER, OPAQUE, paint_matter
from haustra.simulator.screen import SQUARE_SHARE, TEXT_SHARE, draw_screen, paint_screen
from haustra.simulator.video import BLURS, VIDEO, blur_light, disturb_picture

Light = NDArray[np.float32]
Levels = NDArray[np.uint8]
NEVER_HIDE: tuple[str, ...] = ("mucus", *BLURS, *VIDEO)


def event(kind: str, *, seed: int = 1, strength: float = 1.0, progress: float = 0.5) -> Event:
    return Event(kind=kind, seed=seed, strength=strength, progress=progress)


def make_view(size_px: int) -> tuple[Light, Light]:
    """Return the light and the depth of a tube, looked along, with some texture."""
    across = (np.arange(size_px) + 0.5) / (size_px / 2) - 1
    radius = np.hypot(across[None, :], across[:, None])
    depth_mm = np.minimum(20 / np.sin(np.clip(1.2 * radius, 0.1, 1.5)), 150)
    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.standard_normal((16, 16)), (size_px, size_px))
    grain = grain + 0.7 * cv2.resize(rng.standard_normal((64, 64)), (size_px, size_px))
    red = 0.45 * np.minimum(25 / depth_mm, 1.2) * np.exp(0.2 * grain)
    linear = red[..., None] * np.array([1, 0.5, 0.4])
    return linear.astype(np.float32), depth_mm.astype(np.float32)


def disturb(
    linear: Light, depth_mm: Light, *events: Event
) -> tuple[Light, Levels, NDArray[np.bool_]]:
    light, hides = paint_matter(linear, depth_mm=depth_mm, events=events)
    light = blur_light(light, events=events)
    levels = np.clip(255 * np.sqrt(1 - np.exp(-1.25 * light)), 0, 255).astype(np.uint8)
    return light, disturb_picture(levels, events=events), hides


def mean_change(kind: str, *, strength: float, seed: int, size_px: int = 200) -> float:
    linear, depth_mm = make_view(size_px)
    _, before, _ = disturb(linear, depth_mm)
    _, after, _ = disturb(linear, depth_mm, event(kind, seed=seed, strength=strength))
    return float(np.abs(after.astype(float) - before).mean())


def test_every_kind_acts_in_one_place_and_has_a_rate_and_a_length() -> None:
    assert sorted([*MATTER, *BLURS, *VIDEO]) == sorted(KINDS)
    assert set(RATES) == set(EPISODE_S) == set(KINDS)


def test_plans_depend_only_on_the_generator() -> None:
    for stills in (True, False):
        first, again, other = (
            plan_events(80, frame_rate_hz=10, stills=stills, rng=np.random.default_rng(seed))
            for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other


def test_stills_draw_each_kind_at_its_rate() -> None:
    plan = plan_events(6000, frame_rate_hz=10, stills=True, rng=np.random.default_rng(0))
    for kind in KINDS:
        share = sum(e.kind == kind for events in plan for e in events) / len(plan)
        assert share == pytest.approx(RATES[kind], abs=0.02)
    assert all(e.progress == 0.5 for events in plan for e in events)
    assert len({e.seed for events in plan for e in events}) > 5000


@pytest.mark.parametrize("num_frames", [1, 4, 60, 240, 1200])
def test_most_frames_of_a_procedure_have_no_event(num_frames: int) -> None:
    for seed in range(12):
        plan = plan_events(
            num_frames, frame_rate_hz=10, stills=False, rng=np.random.default_rng(seed)
        )
        assert len(plan) == num_frames
        assert sum(bool(events) for events in plan) <= MAX_BUSY_SHARE * num_frames


def test_procedures_have_few_events_but_of_every_kind() -> None:
    assert PROCEDURE_SHARE * sum(RATES.values()) <= 0.185
    plans = [
        plan_events(300, frame_rate_hz=10, stills=False, rng=np.random.default_rng(seed))
        for seed in range(40)
    ]
    assert sum(any(plan) for plan in plans) >= 38
    assert {e.kind for plan in plans for events in plan for e in events} == set(KINDS)
    busy = np.mean([bool(events) for plan in plans for events in plan])
    assert 0.07 < busy <= 0.18


def test_episodes_grow_and_fade_with_one_seed() -> None:
    plan = plan_events(3000, frame_rate_hz=10, stills=False, rng=np.random.default_rng(5))
    episodes: dict[tuple[str, int], list[tuple[int, Event]]] = {}
    for frame, events in enumerate(plan):
        for e in events:
            episodes.setdefault((e.kind, e.seed), []).append((frame, e))
    long = [
        episode
        for episode in episodes.values()
        if len(episode) >= 12 and episode[0][0] > 0 and episode[-1][0] < 2999
    ]
    assert len(long) > 3
    for episode in long:
        frames = [frame for frame, _ in episode]
        strengths = np.array([e.strength for _, e in episode])
        progress = [e.progress for _, e in episode]
        assert frames == list(range(frames[0], frames[-1] + 1))
        assert progress == sorted(progress)
        assert max(strengths[0], strengths[-1]) < 0.7 * strengths.max()
        assert np.abs(np.diff(strengths)).max() < 0.6 * strengths.max()


@pytest.mark.parametrize("size_px", [64, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_deterministic_and_keeps_shape_type_and_input(kind: str, size_px: int) -> None:
    linear, depth_mm = make_view(size_px)
    levels = np.full((size_px, size_px, 3), 120, dtype=np.uint8)
    kept = linear.copy(), depth_mm.copy(), levels.copy()
    for seed in range(6):
        one = event(kind, seed=seed, strength=0.8, progress=0.3)
        light, picture, hides = disturb(linear, depth_mm, one)
        light_again, picture_again, hides_again = disturb(linear, depth_mm, one)
        disturb_picture(levels, events=(one,))
        assert light.shape == picture.shape == linear.shape
        assert light.dtype == np.float32
        assert picture.dtype == np.uint8
        assert hides.shape == depth_mm.shape
        assert hides.dtype == np.bool_
        assert np.isfinite(light).all()
        assert light.min() >= 0
        assert np.array_equal(light, light_again)
        assert np.array_equal(picture, picture_again)
        assert np.array_equal(hides, hides_again)
    assert np.array_equal(linear, kept[0])
    assert np.array_equal(depth_mm, kept[1])
    assert np.array_equal(levels, kept[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_strong_event_is_visible_and_a_weak_one_hardly_is(kind: str) -> None:
    strong = [mean_change(kind, strength=1.0, seed=seed) for seed in range(8)]
    weak = [mean_change(kind, strength=0.01, seed=seed) for seed in range(8)]
    assert np.median(strong) > 0.5
    if kind == "compression":  # changes something at any quality
        assert np.median(strong) > 1.3 * np.median(weak)
    else:
        assert max(weak) < 0.3 + 0.05 * np.median(strong)


@pytest.mark.parametrize("kind", ["stool", "blood", "bubbles", "instrument"])
def test_hidden_pixels_show_at_most_half_of_the_wall(kind: str) -> None:
    linear, depth_mm = make_view(160)
    # Squares that average out where the arriving light is estimated.
    squares = 1 + 0.2 * (-1.0) ** np.add.outer(np.arange(160), np.arange(160))
    other = (linear * (2 - squares)[..., None]).astype(np.float32)
    linear = (linear * squares[..., None]).astype(np.float32)
    hidden = 0
    for seed in range(12):
        events = (event(kind, seed=seed),)
        first, hides = paint_matter(linear, depth_mm=depth_mm, events=events)
        second, _ = paint_matter(other, depth_mm=depth_mm, events=events)
        shown = np.abs(first - second).sum(axis=2) / np.abs(linear - other).sum(axis=2)
        hidden += int(hides.sum())
        assert shown[hides].max(initial=0) <= 1 - OPAQUE + 0.02
        if kind == "instrument":  # it lets nothing through that does not count
            assert shown[~hides].min() >= 1 - OPAQUE - 0.02
    assert hidden > 12 * 20


@pytest.mark.parametrize("kind", NEVER_HIDE)
def test_transparent_events_hide_nothing(kind: str) -> None:
    linear, depth_mm = make_view(96)
    for seed in range(6):
        assert not paint_matter(linear, depth_mm=depth_mm, events=(event(kind, seed=seed),))[
            1
        ].any()


@pytest.mark.parametrize("kind", ["bubbles", "stool", "mucus", "blood", "instrument", "lens_fluid"])
def test_matter_moves_little_from_frame_to_frame(kind: str) -> None:
    linear, depth_mm = make_view(200)
    for seed in range(4):
        now, soon, unrelated = (
            disturb(linear, depth_mm, event(kind, seed=number, strength=0.9, progress=progress))[0]
            for number, progress in ((seed, 0.50), (seed, 0.51), (seed + 100, 0.50))
        )
        assert not np.array_equal(now, soon)
        assert np.abs(now - soon).mean() < 0.6 * np.abs(now - unrelated).mean()


def test_motion_and_defocus_do_not_shift_the_picture() -> None:
    dot = np.zeros((200, 200, 3), dtype=np.float32)
    dot[100, 80] = 1
    places = np.arange(200)
    for kind in ("motion_blur", "defocus"):
        for seed in range(8):
            light = blur_light(dot, events=(event(kind, seed=seed),))[..., 0]
            assert light.sum() == pytest.approx(1, abs=1e-3)
            assert light.sum(axis=0) @ places == pytest.approx(80, abs=0.6)
            assert light.sum(axis=1) @ places == pytest.approx(100, abs=0.6)
            assert light.max() < 0.3


def test_without_events_nothing_changes() -> None:
    linear, depth_mm = make_view(64)
    light, hides = paint_matter(linear, depth_mm=depth_mm, events=())
    assert np.array_equal(blur_light(light, events=()), linear)
    assert not hides.any()


def test_matter_is_painted_without_a_wall() -> None:
    nothing = np.zeros((64, 64), dtype=np.float32)
    for kind in MATTER:
        light, _ = paint_matter(
            np.zeros((64, 64, 3), dtype=np.float32), depth_mm=nothing, events=(event(kind),)
        )
        assert np.isfinite(light).all()


def test_screens_have_text_and_square_at_the_documented_rates() -> None:
    screens = [draw_screen(np.random.default_rng(seed)) for seed in range(600)]
    assert np.mean([s.text is not None for s in screens]) == pytest.approx(TEXT_SHARE, abs=0.06)
    assert np.mean([s.square is not None for s in screens]) == pytest.approx(SQUARE_SHARE, abs=0.06)
    assert draw_screen(np.random.default_rng(0)) == screens[0]


@pytest.mark.parametrize("size_px", [64, 200])
def test_a_square_covers_its_corner_and_letters_cover_nothing(size_px: int) -> None:
    levels = np.full((size_px, size_px, 3), 90, dtype=np.uint8)
    with_text = 0
    for seed in range(40):
        screen = draw_screen(np.random.default_rng(seed))
        painted, hides = paint_screen(levels, screen, frame_number=5, seconds=0.5)
        assert painted.dtype == np.uint8
        assert (levels == 90).all()
        assert hides.any() == (screen.square is not None)
        changed = (painted != levels).any(axis=2)
        assert changed.any() == (screen.text is not None or screen.square is not None)
        if screen.square is not None:
            side = round(screen.square.side * size_px)
            assert hides[-side:, :side].all()
            assert hides.sum() == side**2
            assert changed[hides].all()
        with_text += screen.text is not None and bool((changed & ~hides).any())
    assert with_text > 10


def test_clocks_on_the_screen_advance() -> None:
    levels = np.zeros((384, 384, 3), dtype=np.uint8)
    moved = 0
    for seed in range(20):
        screen = draw_screen(np.random.default_rng(seed))
        first, same, later = (
            paint_screen(levels, screen, frame_number=0, seconds=seconds)[0]
            for seconds in (0.0, 0.4, 7.0)
        )
        assert np.array_equal(first, same)
        moved += not np.array_equal(first, later)
    assert moved > 3
