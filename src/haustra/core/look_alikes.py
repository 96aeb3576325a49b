"""Finding images that look alike, by thumbnails of 8x8 colors.

Those survive another resizing, compression or brightness, but no flip, rotation, crop or tint. A
tint is a mark of frames from one procedure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.images import natural_key
from haustra.core.progress import Progress, SilentProgress, track

GroupBy = Literal["similar"]
"""Ways to make groups: similar merges those with images that look alike."""

THUMBNAIL_SIZE = 8
MAX_DIFFERENCE = 0.02
"""Largest difference (1 - correlation) of thumbnails that look alike. Among Kvasir-SEG's 497,503
pairs it names 7, all of them real; 0.03 names 11."""
MAX_NEIGHBOR_DIFFERENCE = 0.08
"""The same for neighbors in a run of sequences. It joins 98 % of simulated frames that are 0.2 s
apart with their sequence, and would join 0.4 % of unrelated neighbors."""
MIN_SEQUENCE_SHARE = 0.05
"""A run is one of sequences if this share of its neighbors look alike by `MAX_DIFFERENCE`: none do
in Kvasir-SEG, whose names have no order, and 17 % of simulated frames 0.5 s apart."""
MIN_CONTRAST = 2.0
"""A thumbnail whose values deviate less, such as a black frame's, looks like no other."""
ROWS_AT_ONCE = 256
"""Thumbnails that are compared with all others at once: 100 MB for 100,000 images."""


def thumbnail(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image, uint8 [H,W,3], as 8x8 RGB pixels, for `unit_vectors`."""
    step = max(1, min(image_rgb.shape[:2]) // (8 * THUMBNAIL_SIZE))
    side = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    small = cv2.resize(image_rgb[::step, ::step], side, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def merge_look_alikes(
    groups: Sequence[str],
    thumbnails: Sequence[NDArray[np.uint8]],
    *,
    runs: Sequence[str],
    neighbors_only: bool = False,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Merge groups that hold images which look alike, also through a third group.

    Args:
        groups: Group of each image.
        thumbnails: Thumbnail of each image.
        runs: Run of each image, whose images stand in its order.
        neighbors_only: Compare only images that are neighbors in a run.
        progress: Receives the progress.

    Returns:
        The name of the merged group for each group that was merged with another one: the first of
        its groups' names in natural order.
    """
    number_of = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    group_of = np.array([number_of[name] for name in groups])
    first_of = np.arange(len(number_of))  # a group that it is merged with, or itself

    def find_first(group: int) -> int:
        while first_of[group] != group:
            first_of[group] = first_of[first_of[group]]
            group = first_of[group]
        return group

    def merge(a: int, b: int) -> None:
        low, high = sorted((find_first(a), find_first(b)))
        first_of[high] = low

    def merged_of_images() -> NDArray[np.int64]:
        while (first_of[first_of] != first_of).any():
            first_of[:] = first_of[first_of]
        return np.asarray(first_of[group_of])

    looks = unit_vectors(thumbnails)
    for index, following in zip(*_neighbors_alike(looks, runs=runs), strict=True):
        merge(group_of[index], group_of[following])
    if not neighbors_only:
        merged = merged_of_images()
        for index, others in each_alike(looks, progress=progress):
            found = set(merged[others[merged[others] != merged[index]]].tolist())
            for other in found:
                merge(merged[index], other)
            if len(found) > 64:  # many copies of one image: none of them is looked at again
                merged = merged_of_images()
    merged_of_images()
    names_of = defaultdict(list)
    for name, first in zip(number_of, first_of.tolist(), strict=True):
        names_of[first].append(name)
    merged_names: dict[str, str] = {}
    for names in names_of.values():
        if len(names) > 1:
            merged_names |= dict.fromkeys(names, min(names, key=natural_key))
    return merged_names


def unit_vectors(thumbnails: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return thumbnails as vectors [N,192] whose products are correlations; flat ones as zeros."""
    looks = np.reshape(thumbnails, (len(thumbnails), -1)).astype(np.float32)
    looks -= looks.mean(axis=1, keepdims=True)
    contrast = looks.std(axis=1, keepdims=True)
    looks *= contrast >= MIN_CONTRAST
    looks /= np.maximum(contrast, MIN_CONTRAST) * np.sqrt(looks.shape[1])
    return looks


def _neighbors_alike(
    looks: NDArray[np.float32], *, runs: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images that look like the next one of their run, and these.

    Flat images are left out, so that one of them does not cut a sequence.
    """
    images = np.flatnonzero(looks.any(axis=1))
    run_of = np.unique(np.array(runs)[images], return_inverse=True)[1]
    same_run = run_of[1:] == run_of[:-1]
    first, second, run_of = images[:-1][same_run], images[1:][same_run], run_of[:-1][same_run]
    differences = 1 - (looks[first] * looks[second]).sum(axis=1)
    alike = differences <= MAX_DIFFERENCE
    shares = np.bincount(run_of, alike) / np.maximum(np.bincount(run_of), 1)
    in_sequences = shares[run_of] >= MIN_SEQUENCE_SHARE
    alike |= in_sequences & (differences <= MAX_NEIGHBOR_DIFFERENCE)
    return first[alike], second[alike]


def each_alike(
    looks: NDArray[np.float32], *, progress: Progress | None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each image that looks like others, and those; each pair once, in either order.

    Images are sorted along the direction in which they differ most. Two that look alike are near
    each other in any direction, so that most pairs need no comparison.
    """
    centered = looks - looks.mean(axis=0)
    place = looks @ np.linalg.eigh(centered.T @ centered)[1][:, -1]
    order = np.argsort(place, kind="stable")
    looks, place = looks[order], place[order]
    # |a - b|^2 = 2 (1 - ab) for unit vectors; a little more, for rounding errors.
    ends = np.searchsorted(place, place + np.sqrt(2 * MAX_DIFFERENCE) + 1e-4)
    for start in track(
        range(0, len(looks), ROWS_AT_ONCE),
        progress=progress or SilentProgress(),
        description="compare",
        total=-(-len(looks) // ROWS_AT_ONCE),
        unit="blocks",
    ):
        rows = looks[start : start + ROWS_AT_ONCE]
        alike = rows @ looks[start : ends[start + len(rows) - 1]].T >= 1 - MAX_DIFFERENCE
        alike = np.triu(alike, k=1)  # not with itself or an earlier one
        for row in np.flatnonzero(alike.any(axis=1)):
            yield order[start + row], order[start + np.flatnonzero(alike[row])]
