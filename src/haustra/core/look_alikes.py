"""Finding images that look alike, by a perceptual hash.

The hash survives another resizing, compression or brightness, but no flip, rotation or crop.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
BLOCK_SIZE = 1024
"""Hashes of each side that are compared at once: a million distances, 9 MiB with their bits."""


def perceptual_hash(image_rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the 64 bits of an image's DCT hash: the low frequencies that exceed their median.

    The image, uint8 [H,W,3], is shrunk to 32x32 gray pixels. The hash uses the 8x8 lowest
    frequencies of its cosine transform, without those that are constant along an axis. Source: C.
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section
    3.2.1.
    """
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Rounding gives zeros for a flat image instead of the signs of rounding errors.
    low = np.asarray(cv2.dct(small))[1:9, 1:9].round(2).ravel()
    return np.asarray(low > np.median(low))


def near_pairs(
    hashes_a: NDArray[np.bool_], hashes_b: NDArray[np.bool_], *, max_distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, block by block, the pairs of hashes [N,64] and [M,64] within a Hamming distance.

    Yields:
        Indices into `hashes_a`, indices into `hashes_b` and distances, [num_pairs] each.
    """
    words_a, words_b = (
        np.packbits(bits, axis=1).view(np.uint64).ravel() for bits in (hashes_a, hashes_b)
    )
    for start_a in range(0, len(words_a), BLOCK_SIZE):
        block_a = words_a[start_a : start_a + BLOCK_SIZE, None]
        for start_b in range(0, len(words_b), BLOCK_SIZE):
            distances = np.bitwise_count(block_a ^ words_b[start_b : start_b + BLOCK_SIZE])
            index_a, index_b = np.nonzero(distances <= max_distance)
            yield index_a + start_a, index_b + start_b, distances[index_a, index_b].astype(np.int64)
