"""The live colon: an autopilot's way, a hand's way, and never outside."""

import numpy as np
import pytest

from haustra.simulator.live import Drive, LiveColon


@pytest.fixture(scope="module")
def colon() -> LiveColon:
    return LiveColon(3, size_px=64)


def test_the_autopilot_renders_frames_in_time_order(colon: LiveColon) -> None:
    first = colon.next_frame()
    assert first.image_rgb.shape == (64, 64, 3)
    assert first.seconds == 0
    assert colon.next_frame().seconds == 0.1


def test_manual_control_moves_the_camera(colon: LiveColon) -> None:
    colon.take_over(autopilot=False)
    start = colon._pose.position_mm
    standing = [colon.next_frame() for _ in range(2)]
    assert np.array_equal(colon._pose.position_mm, start)
    assert len(standing) == 2
    colon.drive = Drive(ahead=1.0, turn_right=0.5)
    axes = colon._pose.axes
    for _ in range(5):
        colon.next_frame()
    assert np.linalg.norm(colon._pose.position_mm - start) > 1
    assert not np.allclose(colon._pose.axes, axes)
    assert np.allclose(colon._pose.axes @ colon._pose.axes.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("drive", [Drive(sideways=1.0), Drive(ahead=-1.0), Drive(ahead=1.0)])
def test_the_camera_never_leaves_the_lumen(colon: LiveColon, drive: Drive) -> None:
    colon.take_over(autopilot=False)
    colon.drive = drive
    for _ in range(150):
        colon._pose = colon._driven()
    assert colon.next_frame().image_rgb.mean() > 5  # there is wall, near enough to be lit
    assert colon._plan.scene.free_distance_mm(colon._pose.position_mm) > 1


def test_the_autopilot_continues_from_the_position_of_manual_control(colon: LiveColon) -> None:
    colon.take_over(autopilot=False)
    colon.drive = Drive(ahead=1.0)
    for _ in range(40):
        colon._pose = colon._driven()
    before = colon._pose.position_mm
    colon.take_over(autopilot=True)
    colon.next_frame()
    assert np.linalg.norm(colon._pose.position_mm - before) < 20
