import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core import look_alikes
from haustra.core.images import check_image, encode_jpeg, encode_png
from haustra.core.look_alikes import merge_look_alikes, thumbnail
from scenes import smooth_picture

Image = NDArray[np.uint8]


def moved(image: Image, *, by_px: int) -> Image:
    """The same scene from a camera that moved sideways."""
    return np.ascontiguousarray(image[:, by_px : by_px + 88])


def merge(
    images: dict[str, Image], *, runs: list[str] | None = None, neighbors_only: bool = False
) -> dict[str, str]:
    return merge_look_alikes(
        list(images),
        [thumbnail(image) for image in images.values()],
        runs=runs or ["r"] * len(images),
        neighbors_only=neighbors_only,
    )


def test_copies_of_other_size_compression_and_brightness_are_merged_and_others_are_not() -> None:
    picture = smooth_picture(1)
    jpeg = check_image(encode_jpeg(picture, quality=60), name="x").image_rgb
    images = {
        "small": smooth_picture(1, size_wh=(60, 48)),
        **{f"other{seed}": smooth_picture(seed) for seed in range(10, 60)},
        "dark": (picture * 0.7).astype(np.uint8),
        "flipped": picture[:, ::-1].copy(),
        "jpeg": jpeg,
        "png": check_image(encode_png(picture), name="x").image_rgb,
    }
    assert merge(images) == dict.fromkeys(("dark", "jpeg", "png", "small"), "dark")


def test_a_merged_group_has_the_first_name_in_natural_order_whatever_the_order() -> None:
    names = ["x_10", "x_9", "x_2"]
    for order in itertools.permutations(names):
        images = {name: smooth_picture(1) for name in order} | {"x_1": smooth_picture(2)}
        assert merge(images) == dict.fromkeys(names, "x_2")


def test_frames_of_a_sequence_are_merged_though_its_ends_differ() -> None:
    """Each sequence pans over a scene; neighbors are alike, its first and last frame are not."""
    images: dict[str, Image] = {}
    for sequence in range(6):
        wide = smooth_picture(sequence, size_wh=(300, 96))
        for number in range(26):
            images[f"{10 * sequence + number // 10}_{number}"] = moved(wide, by_px=4 * number)
    first, last = (thumbnail(images[name]).astype(float).ravel() for name in ("0_0", "2_25"))
    assert np.corrcoef(first, last)[0, 1] < 0.5
    merged = merge(images)
    assert set(merged) == set(images)
    for name, group in merged.items():
        assert int(name.split("_")[0]) // 10 == int(group.split("_")[0]) // 10
    assert len(set(merged.values())) == 6


def test_neighbors_are_compared_strictly_where_the_names_have_no_order() -> None:
    """Two images that are alike enough for a sequence only are no cluster among stills."""
    wide = smooth_picture(0, size_wh=(300, 96))
    pair = {"a_1": moved(wide, by_px=0), "a_2": moved(wide, by_px=7)}
    a, b = (thumbnail(image).astype(float).ravel() for image in pair.values())
    difference = 1 - np.corrcoef(a, b)[0, 1]
    assert look_alikes.MAX_DIFFERENCE < difference < look_alikes.MAX_NEIGHBOR_DIFFERENCE
    stills = {f"s_{seed}": smooth_picture(seed) for seed in range(10, 80)}
    assert merge(pair | stills) == {}
    frames = {
        f"v_{number}": moved(smooth_picture(99, size_wh=(300, 96)), by_px=number)
        for number in range(9)
    }
    in_order = pair | stills | frames
    assert merge(in_order) == {"a_1": "a_1", "a_2": "a_1"} | dict.fromkeys(frames, "v_0")
    assert merge(in_order, runs=["p", *["q"] * (len(in_order) - 1)]) == dict.fromkeys(frames, "v_0")


def test_flat_images_look_like_none() -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (40, 48, 3))
    flat = {str(n): np.full((40, 48, 3), 10 * n, np.uint8) for n in range(5)}
    almost = {f"n{n}": (60 + np.roll(noise, n, axis=0)).astype(np.uint8) for n in range(5)}
    assert merge(flat | almost) == {}
    assert merge({"one": smooth_picture(0)}) == {}


def test_groups_are_merged_through_a_third_one_and_never_cut() -> None:
    """`p` holds two scenes; a copy of each, elsewhere, joins it."""
    groups = ["p", "p", "a", "b", "c"]
    images = [
        smooth_picture(1),
        smooth_picture(2),
        smooth_picture(2),
        smooth_picture(3),
        smooth_picture(1),
    ]
    thumbnails = [thumbnail(image) for image in images]
    runs = ["r", "r", "s", "s", "t"]
    merged = merge_look_alikes(groups, thumbnails, runs=runs)
    assert merged == {"p": "a", "a": "a", "c": "a"}
    assert merge_look_alikes(groups, thumbnails, runs=runs, neighbors_only=True) == {}


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_every_pair_that_is_near_enough_is_found(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(look_alikes, "ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(3)
    basis = rng.integers(40, 216, (60, 8, 8, 3))
    noisy = basis[rng.integers(0, 60, 300)] + rng.normal(0, 7, (300, 8, 8, 3))
    thumbnails = list(np.clip(noisy, 0, 255).astype(np.uint8))
    names = [f"{number:03}" for number in range(300)]
    vectors = np.stack(thumbnails).reshape(300, -1).astype(float)
    near = np.corrcoef(vectors) >= 1 - look_alikes.MAX_DIFFERENCE
    reached = near.copy()
    while (wider := reached @ near).sum() > reached.sum():
        reached = wider
    expected = {
        names[i]: names[int(row.argmax())] for i, row in enumerate(reached) if row.sum() > 1
    }
    assert 0 < len(set(expected.values())) < len(expected) < 300
    assert merge_look_alikes(names, thumbnails, runs=names) == expected


def test_many_copies_take_one_look() -> None:
    names = [str(number) for number in range(3000)]
    merged = merge_look_alikes(names, [thumbnail(smooth_picture(0))] * 3000, runs=names)
    assert merged == dict.fromkeys(names, "0")
