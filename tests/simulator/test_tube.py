import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.simulator.tube import (
    MAX_RADIUS_MM,
    SECTIONS,
    STEP_MM,
    TILE_PX,
    Tube,
    build_tube,
)


@pytest.fixture(scope="module")
def colon() -> Tube:
    return build_tube(np.random.default_rng(0))


def radii_mm(tube: Tube) -> NDArray[np.float64]:
    away = tube.vertices_mm - tube.centers_mm[tube.station]
    return np.asarray(np.linalg.norm(away, axis=1))


def test_a_colon_is_as_long_as_its_sections(colon: Tube) -> None:
    shortest, longest = np.sum([section.length_mm for section in SECTIONS], axis=0)
    assert shortest - STEP_MM < colon.length_mm < longest


def test_the_lumen_stays_within_its_limits(colon: Tube) -> None:
    inside = (colon.station > 40) & (colon.station < colon.station.max() - 40)
    radius = radii_mm(colon)[inside]
    assert radius.max() < 1.3 * MAX_RADIUS_MM
    assert radius.min() > 5


def test_folds_reach_into_the_lumen_and_can_be_left_out(colon: Tube) -> None:
    smooth = build_tube(np.random.default_rng(0), with_folds=False)

    def steepest(tube: Tube) -> float:
        rows = radii_mm(tube).reshape(len(tube.centers_mm), -1)[40:-40]
        return float(np.percentile(np.abs(np.diff(rows, axis=0)), 98) / STEP_MM)

    assert steepest(colon) > 0.8
    assert steepest(smooth) < 0.4


def test_the_transverse_colon_is_more_triangular_than_the_descending() -> None:
    shares = {}
    for section in SECTIONS[2:4]:
        tube = build_tube(np.random.default_rng(3), sections=[section], with_folds=False)
        rows = radii_mm(tube).reshape(len(tube.centers_mm), -1)[40:-40, :-1]
        spectrum = np.abs(np.fft.rfft(rows, axis=1)) / rows.shape[1]
        shares[section.name] = (spectrum[:, 3] / spectrum[:, 0]).mean()
    assert shares["transverse"] > 1.5 * shares["descending"]


def test_textures_are_continuous_over_every_face_except_at_the_ends(colon: Tube) -> None:
    corners = colon.texture_px[colon.faces]
    jumps = np.ptp(corners, axis=1).max(axis=1)
    rows = colon.station[colon.faces]
    middle = (rows.min(axis=1) > 25) & (rows.max(axis=1) < colon.station.max() - 25)
    assert jumps[middle].max() < TILE_PX / 20
