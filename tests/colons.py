"""Small colons for tests."""

from collections.abc import Sequence

import numpy as np

from haustra.simulator.scene import Scene, build_scene
from haustra.simulator.tube import SECTIONS, Section, build_tube


def make_scene(seed: int, *, num_polyps: int, sections: Sequence[Section] = SECTIONS[1:3]) -> Scene:
    rng = np.random.default_rng(seed)
    tube = build_tube(rng, sections=sections)
    return build_scene(tube, num_polyps=num_polyps, sizes="even", rng=rng)
