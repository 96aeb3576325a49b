"""Train, score and export the peer. Runs in an interpreter that has Ultralytics, not in haustra's.

    python peer_script.py REQUEST.json ANSWER.json

`peer.py` writes the request and reads the answer. This script imports nothing of haustra, and
nothing of haustra imports it.
"""

import csv
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO, __version__  # type: ignore[import-not-found]


def leave_out_validation(model: Any) -> None:
    """Stop the training's clock while it validates, as haustra does."""
    started = 0.0

    def on_val_start(_: Any) -> None:
        nonlocal started
        started = time.time()

    def on_val_end(_: Any) -> None:
        model.trainer.train_time_start += time.time() - started

    model.add_callback("on_val_start", on_val_start)
    model.add_callback("on_val_end", on_val_end)


def count_images(model: Any, *, batch: int) -> list[int]:
    """Return a list that will hold the images of each epoch; the time budget cuts the last."""
    images_of_epoch: list[int] = []

    def on_train_epoch_start(_: Any) -> None:
        images_of_epoch.append(0)

    def on_train_batch_start(trainer: Any) -> None:
        seen = images_of_epoch[-1] + batch
        images_of_epoch[-1] = min(seen, len(trainer.train_loader.dataset))

    model.add_callback("on_train_epoch_start", on_train_epoch_start)
    model.add_callback("on_train_batch_start", on_train_batch_start)
    return images_of_epoch


def read_epoch_times(path: Path) -> list[float]:
    """Return the seconds of training at the end of each epoch, from the trainer's own table."""
    with path.open() as file:
        rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]
    return [float(row["time"]) for row in rows]


def main() -> None:
    """Train, score and export as the request says, and write the answer last."""
    request = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(request["folder"])
    model = YOLO(request["architecture"])
    leave_out_validation(model)
    epoch_images = count_images(model, batch=request["train"]["batch"])
    model.train(**request["train"], project=str(folder), name="train", exist_ok=True)
    threads = torch.get_num_threads()
    epoch_times = read_epoch_times(folder / "train" / "results.csv")

    best = folder / "best.pt"
    shutil.copyfile(model.trainer.best, best)
    scores = YOLO(best).val(
        data=request["train"]["data"],
        imgsz=request["train"]["imgsz"],
        batch=request["train"]["batch"],
        device="cpu",
        plots=False,
        project=str(folder),
        name="val",
        exist_ok=True,
    )
    for size in request["export_sizes"]:
        exported = YOLO(best).export(format="onnx", imgsz=size, simplify=False)
        shutil.move(exported, folder / f"{size}.onnx")
    answer = {
        "epoch_times_s": epoch_times,
        "epoch_images": epoch_images,
        "ap50": float(scores.box.map50),
        "ap75": float(scores.box.map75),
        "ap50_95": float(scores.box.map),
        "threads": threads,
        "ultralytics": __version__,
        "torch": torch.__version__,
    }
    Path(sys.argv[2]).write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
