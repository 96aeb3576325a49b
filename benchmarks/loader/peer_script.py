"""One peer's loader. Runs in an interpreter that has the peers' packages, not in haustra's.

    python peer_script.py PEER FOLDER

Converts the samples that `compare.py` wrote to FOLDER, warms up, and prints the shapes of a batch.
Then it answers each line on standard input with the times of one shuffled epoch, as a line of JSON.
This script imports nothing of haustra, and nothing of haustra imports it.

The settings follow the peers' documentation for a local disk: two persistent workers, or for raw
pixels also none, since there is nothing to decode; batches of 16; litdata with chunks of 64 MB, its
StreamingDataLoader and its JPEG serializer; MosaicML Streaming with shards of 64 MB, the batch size
passed to the dataset, no compression and no hashes.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

BATCH_SIZE = 16
NUM_WORKERS = 2
CHUNK_BYTES = 64 * 10**6

Sample = dict[str, Any]


def read_boxes(folder: Path) -> np.ndarray[Any, Any]:
    """Return the boxes float32 [N,M,4] of all samples."""
    boxes: np.ndarray[Any, Any] = np.load(folder / "boxes.npy")
    return boxes


def read_images(folder: Path) -> np.ndarray[Any, Any]:
    """Return the images uint8 [N,H,W,3] of all samples, mapped."""
    images: np.ndarray[Any, Any] = np.load(folder / "images.npy", mmap_mode="r")
    return images


def decode(path: Path) -> np.ndarray[Any, Any]:
    """Return an image file's pixels, uint8 [H,W,3] RGB."""
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def letterbox(image: np.ndarray[Any, Any], *, size_hw: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Scale an image to fit, and pad with gray."""
    height, width = size_hw
    scale = min(height / image.shape[0], width / image.shape[1])
    inner = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    found = np.full((height, width, 3), 114, dtype=np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    found[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA
    )
    return found


class Files(torch.utils.data.Dataset[Sample]):
    """Image files that are decoded at each access."""

    def __init__(
        self, paths: list[Path], boxes: np.ndarray[Any, Any], size_hw: tuple[int, int] | None
    ) -> None:
        self.paths, self.boxes, self.size_hw = paths, boxes, size_hw

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Return an image [H,W,3] and its boxes [M,4]."""
        cv2.setNumThreads(0)  # there are as many workers as CPU cores
        image = decode(self.paths[index])
        if self.size_hw is not None:
            image = letterbox(image, size_hw=self.size_hw)
        return {"image": image, "boxes": self.boxes[index]}


def torch_loader(data: Any, *, shuffle: bool, num_workers: int = NUM_WORKERS) -> Iterable[Sample]:
    """Return PyTorch's own loader."""
    return torch.utils.data.DataLoader(
        data,
        batch_size=BATCH_SIZE,
        shuffle=shuffle,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def decode_sources(folder: Path) -> Iterable[Sample]:
    """Decode and letterbox the source images with PyTorch's DataLoader."""
    paths = [Path(line) for line in (folder / "sources.txt").read_text().splitlines()]
    size_hw = read_images(folder).shape[1:3]
    return torch_loader(Files(paths, read_boxes(folder), size_hw), shuffle=True)


def decode_small(folder: Path) -> Iterable[Sample]:
    """Decode JPEG files of the stored size with PyTorch's DataLoader."""
    paths = sorted((folder / "jpeg").iterdir())
    return torch_loader(Files(paths, read_boxes(folder), None), shuffle=True)


class LitdataSamples:
    """Returns one sample to `optimize`; a class, since its workers pickle it."""

    def __init__(self, folder: Path, *, is_jpeg: bool) -> None:
        self.folder, self.is_jpeg = folder, is_jpeg

    def __call__(self, index: int) -> Sample:
        """Return sample `index` in the form to store."""
        boxes = torch.from_numpy(read_boxes(self.folder)[index])
        if self.is_jpeg:
            from PIL import Image

            path = sorted((self.folder / "jpeg").iterdir())[index]
            return {"image": Image.open(path), "boxes": boxes}
        image = torch.from_numpy(np.array(read_images(self.folder)[index]))
        return {"image": image, "boxes": boxes}


def litdata_loader(
    folder: Path, *, is_jpeg: bool, num_workers: int = NUM_WORKERS
) -> Iterable[Sample]:
    """Convert to litdata's chunks, and return its loader."""
    from litdata import (  # type: ignore[import-not-found]
        StreamingDataLoader,
        StreamingDataset,
        optimize,
    )

    output = folder / ("litdata_jpeg" if is_jpeg else "litdata_raw")
    if not (output / "index.json").exists():
        optimize(
            fn=LitdataSamples(folder, is_jpeg=is_jpeg),
            inputs=list(range(len(read_boxes(folder)))),
            output_dir=str(output),
            chunk_bytes=CHUNK_BYTES,
            num_workers=NUM_WORKERS,
            verbose=False,
        )
    loader: Iterable[Sample] = StreamingDataLoader(
        StreamingDataset(str(output), shuffle=True, drop_last=False),
        batch_size=BATCH_SIZE,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return loader


def streaming_loader(
    folder: Path, *, is_jpeg: bool, num_workers: int = NUM_WORKERS
) -> Iterable[Sample]:
    """Convert to MosaicML Streaming's shards, and return a loader of them."""
    from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]

    boxes = read_boxes(folder)
    shape = read_images(folder).shape[1:]
    output = folder / ("mds_jpeg" if is_jpeg else "mds_raw")

    class Decoded(StreamingDataset):  # type: ignore[misc]
        """Returns decoded images as arrays, which PyTorch can put into batches."""

        def __getitem__(self, at: Any) -> Sample:
            """Return an image [H,W,3] and its boxes [M,4]."""
            sample: Sample = super().__getitem__(at)
            return {"image": np.asarray(sample["image"]), "boxes": sample["boxes"]}

    columns = {
        "image": "jpeg" if is_jpeg else "ndarray:uint8:" + ",".join(map(str, shape)),
        "boxes": "ndarray:float32:" + ",".join(map(str, boxes.shape[1:])),
    }
    if not (output / "index.json").exists():
        with MDSWriter(out=str(output), columns=columns, size_limit=CHUNK_BYTES) as writer:
            for index, sample_boxes in enumerate(boxes):
                if is_jpeg:
                    from PIL import Image

                    path = sorted((folder / "jpeg").iterdir())[index]
                    writer.write({"image": Image.open(path), "boxes": sample_boxes})
                else:
                    image = np.array(read_images(folder)[index])
                    writer.write({"image": image, "boxes": sample_boxes})
    kind = Decoded if is_jpeg else StreamingDataset
    data = kind(local=str(output), shuffle=True, batch_size=BATCH_SIZE)
    return torch_loader(data, shuffle=False, num_workers=num_workers)


PEERS: dict[str, Callable[[Path], Iterable[Sample]]] = {
    "DataLoader, source images": decode_sources,
    "DataLoader, JPEG of the stored size": decode_small,
    "litdata, JPEG": lambda folder: litdata_loader(folder, is_jpeg=True),
    "litdata, raw": lambda folder: litdata_loader(folder, is_jpeg=False),
    "MosaicML Streaming, JPEG": lambda folder: streaming_loader(folder, is_jpeg=True),
    "MosaicML Streaming, raw": lambda folder: streaming_loader(folder, is_jpeg=False),
    "litdata, raw, no workers": lambda folder: litdata_loader(folder, is_jpeg=False, num_workers=0),
    "MosaicML Streaming, raw, no workers": lambda folder: streaming_loader(
        folder, is_jpeg=False, num_workers=0
    ),
}


def time_epoch(loader: Iterable[Sample]) -> dict[str, float]:
    """Return the number of images of an epoch, its seconds, and the seconds to its first batch."""
    started = time.perf_counter()
    first_s, num_images = 0.0, 0
    for batch in loader:
        num_images += len(batch["image"])
        first_s = first_s or time.perf_counter() - started
    return {"images": num_images, "first_s": first_s, "s": time.perf_counter() - started}


def main() -> None:
    """Answer each line of standard input with the times of an epoch."""
    # Packages print to standard output: send that to standard error, and keep it for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder = Path(sys.argv[2])
    loader = PEERS[sys.argv[1]](folder)
    shapes = {name: list(value.shape) for name, value in next(iter(loader)).items()}
    found = time_epoch(loader)
    if found["images"] != len(read_boxes(folder)):
        raise RuntimeError(f"an epoch has {found['images']} images")
    print(json.dumps({"shapes": shapes}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(time_epoch(loader)), file=answers, flush=True)


if __name__ == "__main__":
    main()
