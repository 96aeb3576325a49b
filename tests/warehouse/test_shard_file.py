from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from haustra.warehouse import shard_file
from haustra.warehouse.shard_file import write_shard_file


@pytest.mark.parametrize("shape", [(1, 32, 64, 3), (7, 64, 32, 3)])
@pytest.mark.parametrize("max_boxes", [1, 16])
def test_a_shard_has_the_bytes_that_safetensors_writes(
    tmp_path: Path, shape: tuple[int, ...], max_boxes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "CHUNK_BYTES", 1000)
    rng = np.random.default_rng(max_boxes)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    boxes = rng.random((shape[0], max_boxes, 4), dtype=np.float32)
    mask = rng.integers(0, 2, (shape[0], max_boxes), dtype=np.uint8)
    path = tmp_path / "shards" / "shard.safetensors"
    num_bytes, digest = write_shard_file(path, images=images, boxes=boxes, mask=mask)
    assert path.read_bytes() == save({"images": images, "boxes": boxes, "mask": mask})
    assert num_bytes == len(path.read_bytes())
    assert digest == sha256(path.read_bytes()).hexdigest()


def test_a_shard_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("haustra.core.files._sync", fail)
    image, boxes = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 1, 4), np.float32)
    mask = np.zeros((1, 1), np.uint8)
    with pytest.raises(OSError, match="No space left"):
        write_shard_file(tmp_path / "shard", images=image, boxes=boxes, mask=mask)
    assert list(tmp_path.iterdir()) == []
