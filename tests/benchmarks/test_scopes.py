import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.kvasir.scopes import Look, choose_sets, describe_look


def picture(
    *, inset: bool = False, corner_px: int = 30, rgb: tuple[int, int, int] = (180, 90, 70)
) -> NDArray[np.uint8]:
    """Return a frame with an octagon of noisy color, and a black square in a corner if asked."""
    seen = np.zeros((256, 256), dtype=np.uint8)
    cut, end = 2 * corner_px, 256 - 2 * corner_px
    points = [
        (cut, 0),
        (end, 0),
        (255, cut),
        (255, end),
        (end, 255),
        (cut, 255),
        (0, end),
        (0, cut),
    ]
    cv2.fillConvexPoly(seen, np.array(points), 1)
    if inset:
        seen[170:, :80] = 0
    grain = np.random.default_rng(0).normal(0, 12, (256, 256, 3))
    image = (np.array(rgb) + grain).clip(30, 255).astype(np.uint8)
    return image * seen[..., None]


def test_the_look_of_an_image_is_that_of_its_scope() -> None:
    plain = describe_look(picture())
    assert plain.inset == 0
    assert plain.round_corners == pytest.approx(-30, abs=2)
    assert plain.red == pytest.approx(np.log(180 / 90), abs=0.01)
    assert plain.yellow == pytest.approx(np.log(90 / 70), abs=0.01)
    assert describe_look(picture(inset=True)).inset == 1
    assert describe_look(picture(corner_px=18)).round_corners == pytest.approx(-18, abs=2)
    blurred = cv2.GaussianBlur(picture(), (0, 0), 1.5)
    assert describe_look(np.asarray(blurred, dtype=np.uint8)).sharpness < plain.sharpness - 0.5


def test_the_sets_are_the_ends_of_the_looks_and_share_no_image() -> None:
    looks = [
        Look(
            inset=float(number >= 5), round_corners=-30, red=0.1 * number, yellow=0.3, sharpness=-1
        )
        for number in range(10)
    ]
    looks[3] = Look(inset=0.0, round_corners=-20, red=0.3, yellow=0.4, sharpness=-0.5)
    first, second = (sorted(chosen.tolist()) for chosen in choose_sets(looks))
    assert first == [3, 7, 8, 9]
    assert second == [0, 1, 2, 4]
