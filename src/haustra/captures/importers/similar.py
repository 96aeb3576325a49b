"""The images of an import that look alike: noted, or made one group."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import RunWriter
from haustra.core.look_alikes import merge_look_alikes, thumbnail
from haustra.core.plurals import counted
from haustra.core.progress import Progress

MAX_NOTED = 5_000
"""Largest number of images that are all compared only for a note, which takes a tenth of a second.
Above it, a note compares neighbors."""


@dataclass
class SimilarImages:
    """Compares the images of one run."""

    merges: bool
    """True to make one group of the images that look alike."""
    groups: list[str] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    num_similar: int = 0

    def add(self, image_rgb: NDArray[np.uint8], *, group_id: str) -> None:
        """Take the next frame of the run."""
        self.groups.append(group_id)
        self.thumbnails.append(thumbnail(image_rgb))

    def finish(self, writer: RunWriter, *, progress: Progress | None) -> list[str]:
        """Count the images that look alike, and merge their groups on request; return notes."""
        if not self.groups:
            return []
        only_neighbors = not self.merges and len(self.groups) > MAX_NOTED
        merged = merge_look_alikes(
            self.groups,
            self.thumbnails,
            runs=[""] * len(self.groups),
            neighbors_only=only_neighbors,
            progress=progress,
        )
        self.num_similar = sum(group in merged for group in self.groups)
        text = f"{self.num_similar} images look alike"
        groups = counted(len(set(merged.values())), "group")
        if not merged:
            return []
        if not self.merges:
            compared = "; only neighbors were compared" if only_neighbors else ""
            return [
                f"{text}, in {groups} that splits may cut; --group-by similar keeps "
                f"each whole{compared}"
            ]
        for number, group in enumerate(self.groups):
            if merged.get(group, group) != group:
                writer.rename_group(number, old=group, new=merged[group])
        return [f"{text}: they became {groups}"]
