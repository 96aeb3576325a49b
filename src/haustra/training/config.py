"""`TrainConfig`: every setting of a training, declared once. Does not import torch."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from haustra.core.backend_names import BackendFlag, BackendName
from haustra.core.errors import HaustraError
from haustra.core.ranges import check_whole_number
from haustra.warehouse.order import DEFAULT_WINDOW
from haustra.warehouse.shard_stores import DEFAULT_CACHE_GB, StoreConfig, StoreName

DEFAULT_EPOCHS = 60

FREE_SETTINGS = {
    "manifest",  # the warehouse's version counts, wherever it lies
    "max_boxes",  # of the warehouse
    "store",
    "verify",
    "cache_dir",
    "cache_gb",
    "log_interval",
    "save_every",
    "resume",
    "overwrite",
    "dry_run",
    "checkpoint_out",
    "metrics_out",
    "status_file",
    "tensorboard",
}
"""Settings that may change when a training is continued: its weights do not depend on them."""
ONE_TIME_SETTINGS = {"resume", "overwrite", "dry_run"}
"""Settings that belong to one call of the command, not to the training."""

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600}


def parse_duration_s(text: str, *, flag: str) -> float:
    """Parse `90s`, `10m` or `1.5h` to seconds.

    Raises:
        HaustraError: anything else, or not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]] if match else 0.0
    if seconds <= 0:
        raise HaustraError(f"{flag} {text!r}: expected a time above zero such as 90s, 10m or 1h")
    return seconds


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of `haustra train`."""

    manifest: str | Path
    """The warehouse's manifest.json, or its folder; a path, or with --store stream a URL."""
    model: Literal["tiny", "big"] = "tiny"
    """tiny finds one box per image, big up to --max-boxes."""
    backend: BackendFlag | None = None
    """What computes: ndarray is PyTorch on the CPU, cuda and mps on a GPU, wgpu any vendor's GPU,
    auto the best there is; HAUSTRA_BACKEND's value by default, else ndarray."""
    epochs: int | None = None
    """Passes over the training split; 60 unless --time-budget is given."""
    time_budget: str | None = None
    """Train for this long in place of --epochs: 90s, 10m, 1h; validating comes on top."""
    pretrained: bool = False
    """Begin BigDet from an ImageNet backbone, EfficientNet-Lite0 (extra `pretrained`)."""
    init_from: Path | None = None
    """Begin from the weights of this checkpoint, e.g. one trained on simulated frames."""
    batch_size: int = 16
    """Images that are computed at once."""
    accumulate: int = 1
    """Batches per optimiser step; twice as many of half the size need half the memory."""
    max_boxes: int | None = None
    """Boxes per image; the warehouse's own unless given, and must equal it."""
    lr_start: float = 1.5e-3
    """Learning rate after the warm-up; kernels get ten times as much, by Muon."""
    lr_end: float = 2e-5
    """Learning rate at the end."""
    scheduler: Literal["linear", "cosine"] = "cosine"
    """How the learning rate falls in between."""
    weight_decay: float = 0.05
    """Weight decay of the kernels."""
    iou_weight: float = 3.6
    """Weight of the IoU term of the loss; 0 leaves it out."""
    augment: bool = True
    """Change the training images at random: flips, scale, mosaics, colour, blur and more."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 where the hardware has instructions for it; wgpu has float32 only."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the model by torch.compile; auto does on cuda where the training is long."""
    store: StoreName = "mmap"
    """memory reads all shards at the start, mmap maps their files, stream also opens URLs."""
    shuffle_window: int = DEFAULT_WINDOW
    """Images that are shuffled together; stream fetches as many ahead."""
    verify: bool = True
    """Check each shard's SHA-256 when it is first touched."""
    cache_dir: Path | None = None
    """Where stream keeps shards; ~/.cache/haustra/shards by default."""
    cache_gb: float = DEFAULT_CACHE_GB
    """Room for streamed shards on the disk; exceeded where three windows need more."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    val_every: int = 5
    """Validate and save every so many epochs, and at the end."""
    patience: int = 0
    """Stop after so many validations without a better AP50-95, and keep the best; 0 never does."""
    patience_min_delta: float = 0.0
    """Gain of AP50-95 that counts as better."""
    log_interval: int = 0
    """Also print a line every so many steps; 0 prints one per epoch."""
    checkpoint_out: Path | None = None
    """The checkpoint; checkpoints/tinydet.bin or checkpoints/bigdet.bin by default."""
    metrics_out: Path | None = None
    """Metrics as JSON lines; metrics.jsonl in the run folder, NAME.run, by default."""
    save_every: str = "10m"
    """Save all that is needed to continue this often: 30s, 10m, 1h; at Ctrl-C too."""
    resume: bool = False
    """Continue an interrupted training, as is done anyway; an error where there is none."""
    overwrite: bool = False
    """Replace a --checkpoint-out of another kind, and forget an interrupted training."""
    status_file: Path | None = None
    """Keep a JSON file up to date that tells other programs how far the training is."""
    tensorboard: Path | None = None
    """Write events for TensorBoard into this folder (extra `tensorboard`)."""
    dry_run: bool = False
    """Check everything, take a few steps, predict time and memory, and write nothing."""

    def __post_init__(self) -> None:
        for flag, number, low in (
            ("--epochs", self.epochs, 1),
            ("--batch-size", self.batch_size, 1),
            ("--accumulate", self.accumulate, 1),
            ("--shuffle-window", self.shuffle_window, 1),
            ("--max-boxes", self.max_boxes, 1),
            ("--val-every", self.val_every, 1),
            ("--patience", self.patience, 0),
            ("--log-interval", self.log_interval, 0),
        ):
            if number is not None:
                check_whole_number(flag, number, low=low)
        if not 0 <= self.seed < 2**32:
            raise HaustraError(f"--seed {self.seed}: expected a whole number from 0 to 2^32 - 1")
        for flag, value in (("--lr-start", self.lr_start), ("--lr-end", self.lr_end)):
            if not 0 < value < 1:
                raise HaustraError(f"{flag} {value}: expected a rate above 0 and below 1")
        for flag, value in (
            ("--weight-decay", self.weight_decay),
            ("--iou-weight", self.iou_weight),
            ("--patience-min-delta", self.patience_min_delta),
        ):
            if not 0 <= value < float("inf"):
                raise HaustraError(f"{flag} {value}: expected a number of at least 0")
        if not 0 < self.cache_gb < float("inf"):
            raise HaustraError(
                f"--cache-gb {self.cache_gb}: expected a number of gigabytes above 0"
            )
        if self.pretrained and self.model != "big":
            raise HaustraError(
                f"--pretrained with --model {self.model}: expected --model big, since the "
                "pretrained backbone is larger than all of TinyDet"
            )
        if self.pretrained and self.init_from is not None:
            raise HaustraError(
                f"--pretrained and --init-from {self.init_from}: expected one of them, since both "
                "say with which weights to begin"
            )
        if self.compile == "on" and self.backend == "wgpu":
            raise HaustraError(
                "--compile on with --backend wgpu: expected auto or off, since tinygrad always "
                "compiles and torch.compile has no part in it"
            )
        parse_duration_s(self.save_every, flag="--save-every")
        if self.patience_min_delta and not self.patience:
            raise HaustraError(
                f"--patience-min-delta {self.patience_min_delta}: expected --patience with it, "
                "the number of validations to wait for such a gain"
            )
        if self.time_budget is not None:
            parse_duration_s(self.time_budget, flag="--time-budget")
            if self.epochs is not None:
                raise HaustraError(
                    f"--epochs {self.epochs} and --time-budget {self.time_budget}: expected one "
                    "of them"
                )

    @property
    def time_budget_s(self) -> float | None:
        """The time budget in seconds."""
        if self.time_budget is None:
            return None
        return parse_duration_s(self.time_budget, flag="--time-budget")

    @property
    def num_epochs(self) -> int | None:
        """Epochs to train, or None where the time budget decides."""
        return None if self.time_budget else self.epochs or DEFAULT_EPOCHS

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint goes."""
        return self.checkpoint_out or Path("checkpoints") / f"{self.model}det.bin"

    @property
    def run_folder(self) -> Path:
        """Where all else about the training goes."""
        return self.checkpoint_path.with_suffix(".run")

    @property
    def metrics_path(self) -> Path:
        """Where the metrics go."""
        return self.metrics_out or self.run_folder / "metrics.jsonl"

    @property
    def save_every_s(self) -> float:
        """Seconds between two saved states."""
        return parse_duration_s(self.save_every, flag="--save-every")

    @property
    def store_config(self) -> StoreConfig:
        """How to read the warehouse's shards."""
        return StoreConfig(
            kind=self.store, verify=self.verify, cache_dir=self.cache_dir, cache_gb=self.cache_gb
        )

    def resolve(
        self,
        *,
        max_boxes: int,
        precision: Literal["float32", "bfloat16"],
        backend: BackendName,
    ) -> "TrainConfig":
        """Return the settings with everything decided that was left open."""
        return replace(
            self,
            epochs=self.num_epochs,
            max_boxes=max_boxes,
            precision=precision,
            backend=backend,
            checkpoint_out=self.checkpoint_path,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, paths as text."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }
