"""`TrainConfig`: every setting of a training, declared once. Does not import torch."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from haustra.core.backend_names import BackendFlag, BackendName
from haustra.core.checked import (
    CheckedSettings,
    Count,
    CountFromOne,
    NonNegative,
    OutputFile,
    OutputFolder,
    Positive,
    Share,
    ShareBetween,
    Whole,
)
from haustra.core.errors import HaustraError, option
from haustra.core.operating_point import DEFAULT_FPR
from haustra.core.paths import run_folder_of
from haustra.training.recipe import Recipe
from haustra.warehouse.order import DEFAULT_WINDOW
from haustra.warehouse.shard_stores import DEFAULT_CACHE_GB, StoreConfig, StoreName

DEFAULT_EPOCHS = 60

FREE_SETTINGS = {
    "manifest",  # the warehouse's version counts, wherever it lies
    "max_boxes",  # comes from the warehouse
    "store",
    "verify",
    "cache_dir",
    "cache_gb",
    "fit_fpr",
    "log_interval",
    "save_every",
    "if_finished",
    "resume",
    "overwrite",
    "dry_run",
    "checkpoint_out",
    "metrics_out",
    "status_file",
    "tensorboard",
}
"""Settings that may change when a training is continued: its weights do not depend on them."""
ONE_TIME_SETTINGS = {"if_finished", "resume", "overwrite", "dry_run"}
"""Settings that belong to one call of the command, not to the training."""

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600}


def parse_duration_s(name: str, text: str) -> float:
    """Parse `90s`, `10m` or `1.5h` to seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]] if match else 0.0
    if seconds <= 0:
        raise HaustraError(
            f"{option(name, text)}: expected a time above zero such as 90s, 10m or 1h"
        )
    return seconds


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CheckedSettings):
    """Settings of `haustra train`."""

    manifest: str | Path
    """The warehouse's manifest.json, or its folder: a path, or with --store stream a URL."""
    model: Literal["tiny", "big"] = "tiny"
    """tiny finds one box per image, big up to --max-boxes."""
    backend: BackendFlag | None = None
    """Where to compute: cpu (alias ndarray), cuda, mps, wgpu (any vendor's GPU, experimental), or
    auto, the best that is available; by default the value of HAUSTRA_BACKEND, or else cpu."""
    epochs: CountFromOne | None = None
    """Passes over the training split; 60 unless --time-budget is given."""
    time_budget: str | None = None
    """Training time instead of --epochs: 90s, 10m, 1h; validation comes on top."""
    pretrained: bool = False
    """Begin BigDet from an ImageNet backbone, EfficientNet-Lite0 (extra `pretrained`)."""
    finest_stride: Literal[4, 8] = 8
    """Side in pixels of BigDet's smallest cells: 4 is for small polyps and computes 1.7 times as
    long."""
    init_from: Path | None = None
    """Begin from the weights of this checkpoint, e.g. one trained on simulated frames."""
    batch_size: CountFromOne = 16
    """Images that are computed at once."""
    accumulate: CountFromOne = 1
    """Batches per optimizer step; twice as many of half the size need half the memory."""
    replicas: CountFromOne | None = None
    """Copies of the model that each compute a share of the batch, in one CPU thread each; by
    default one per core, for shares of at least four images. A GPU takes 1. Other numbers give
    other weights."""
    max_boxes: CountFromOne | None = None
    """Boxes per image; the warehouse's own unless given, and must equal it."""
    lr_start: ShareBetween = 1.5e-3
    """Learning rate after the warm-up; Muon multiplies it by ten for kernels."""
    lr_end: ShareBetween = 2e-5
    """Learning rate at the end."""
    scheduler: Literal["linear", "cosine"] = "cosine"
    """Shape of the fall of the learning rate."""
    weight_decay: NonNegative = 0.05
    """Weight decay of the kernels."""
    iou_weight: NonNegative = 3.6
    """Weight of the IoU term of the loss; 0 leaves it out."""
    augment: bool = True
    """Change the training images at random: flips, scale, mosaics, color, blur and more."""
    negatives: Share = 0.2
    """Share of the images of a batch that show no polyp: polyp-free windows of training images and
    clean simulated frames; 0 adds none."""
    recipe: Recipe = field(default_factory=Recipe)
    """JSON file that changes parts of the recipe: augmentation, growth of the images, optimizer,
    averaging, matching, loss."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format: auto is bfloat16 where the hardware has instructions for it; wgpu has float32
    only."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the model by torch.compile; auto does on cuda where the training is long."""
    store: StoreName = "mmap"
    """Access to the shards: memory reads all at the start, mmap maps their files, stream also opens
    URLs."""
    shuffle_window: CountFromOne = DEFAULT_WINDOW
    """Images that are shuffled together; stream fetches as many ahead."""
    verify: bool = True
    """Check each shard's SHA-256 when it is first touched."""
    cache_dir: OutputFolder | None = None
    """Folder where stream keeps shards; ~/.cache/haustra/shards by default."""
    cache_gb: Positive = DEFAULT_CACHE_GB
    """Disk space for streamed shards; exceeded where three windows need more."""
    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of weights, order and augmentation."""
    val_every: CountFromOne = 5
    """Validate and save every so many epochs, and at the end."""
    patience: Count = 0
    """Stop after so many validations without a better AP50-95, and keep the best; 0 never does."""
    patience_min_delta: NonNegative = 0.0
    """Gain of AP50-95 that counts as better."""
    fit_fpr: ShareBetween = DEFAULT_FPR
    """Share of held-out images without a polyp that may be flagged: at the end the threshold is
    fitted to it, and stored in the checkpoint."""
    log_interval: Count = 0
    """Also print a line every so many steps; 0 prints one per epoch."""
    checkpoint_out: OutputFile | None = None
    """The checkpoint; checkpoints/tinydet.bin or checkpoints/bigdet.bin by default."""
    metrics_out: OutputFile | None = None
    """Metrics as JSON lines; metrics.jsonl in the run folder, CHECKPOINT.run, by default."""
    save_every: str = "10m"
    """Time between two saved states, from which a training continues: 30s, 10m, 1h. Ctrl-C saves
    too."""
    resume: bool = False
    """Require an interrupted training to continue. One is also continued without this flag."""
    if_finished: Literal["skip", "error", "again"] = "skip"
    """If --checkpoint-out holds a finished training of these settings: use it, end with an error,
    or train again. One of other settings is only replaced with again."""
    overwrite: bool = False
    """Replace any --checkpoint-out, and discard an interrupted training."""
    status_file: OutputFile | None = None
    """JSON file in which other programs can read how far the training is."""
    tensorboard: OutputFolder | None = None
    """Folder for TensorBoard events (extra `tensorboard`)."""
    dry_run: bool = False
    """Check everything, take a few steps, predict time and memory, and write nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.recipe, Recipe):
            raise HaustraError(
                f"{option('recipe', self.recipe)}: expected a Recipe; `read_recipe` reads a file"
            )
        parse_duration_s("save_every", self.save_every)
        if self.time_budget is not None:
            parse_duration_s("time_budget", self.time_budget)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.checkpoint_path.suffix == ".run":
            raise HaustraError(
                f"{option('checkpoint_out', self.checkpoint_path)}: expected a name without .run "
                "at its end, which names the run folder of another checkpoint"
            )
        if self.pretrained and self.model != "big":
            raise HaustraError(
                f"{option('pretrained', True)} with {option('model', self.model)}: expected "
                f"{option('model', 'big')}, since the pretrained backbone is larger than all of "
                "TinyDet"
            )
        if self.pretrained and self.init_from is not None:
            raise HaustraError(
                f"{option('pretrained', True)} and {option('init_from', self.init_from)}: expected "
                "one of them, since both set the first weights"
            )
        if self.finest_stride == 4 and (self.model != "big" or self.pretrained or self.init_from):
            raise HaustraError(
                f"{option('finest_stride', 4)}: expected {option('model', 'big')} without "
                f"{option('pretrained')} and {option('init_from')}, whose weights have no cells of "
                "that size"
            )
        if self.compile == "on" and self.backend == "wgpu":
            raise HaustraError(
                f"{option('compile', 'on')} with {option('backend', 'wgpu')}: expected auto or "
                "off, since tinygrad always compiles and does not use torch.compile"
            )
        if (self.replicas or 1) > self.batch_size:
            raise HaustraError(
                f"{option('replicas', self.replicas)}: expected at most one for each image of a "
                f"batch, {option('batch_size', self.batch_size)}"
            )
        if self.patience_min_delta and not self.patience:
            raise HaustraError(
                f"{option('patience_min_delta', self.patience_min_delta)}: expected "
                f"{option('patience')} with it, the number of validations to wait for such a gain"
            )
        if self.tensorboard is not None and not str(self.tensorboard).isprintable():
            raise HaustraError(
                f"{option('tensorboard', self.tensorboard)}: expected a printable name in UTF-8, "
                "since TensorBoard writes to no other"
            )
        if self.time_budget is not None and self.epochs is not None:
            raise HaustraError(
                f"{option('epochs', self.epochs)} and {option('time_budget', self.time_budget)}: "
                "expected one of them"
            )

    @property
    def time_budget_s(self) -> float | None:
        """Time budget in seconds, or None where the number of epochs decides."""
        return parse_duration_s("time_budget", self.time_budget) if self.time_budget else None

    @property
    def num_epochs(self) -> int | None:
        """Epochs to train, or None where the time budget decides."""
        return None if self.time_budget else self.epochs or DEFAULT_EPOCHS

    @property
    def checkpoint_path(self) -> Path:
        """Path of the checkpoint."""
        return self.checkpoint_out or Path("checkpoints") / f"{self.model}det.bin"

    @property
    def run_folder(self) -> Path:
        """Folder of all other files of the training."""
        return run_folder_of(self.checkpoint_path)

    @property
    def metrics_path(self) -> Path:
        """Path of the metrics."""
        return self.metrics_out or self.run_folder / "metrics.jsonl"

    @property
    def save_every_s(self) -> float:
        """Seconds between two saved states."""
        return parse_duration_s("save_every", self.save_every)

    @property
    def store_config(self) -> StoreConfig:
        """Settings with which the warehouse's shards are read."""
        return StoreConfig(
            kind=self.store, verify=self.verify, cache_dir=self.cache_dir, cache_gb=self.cache_gb
        )

    def resolve(
        self,
        *,
        max_boxes: int,
        replicas: int,
        precision: Literal["float32", "bfloat16"],
        backend: BackendName,
    ) -> "TrainConfig":
        """Return the settings with a value for everything that was left open."""
        return replace(
            self,
            epochs=self.num_epochs,
            max_boxes=max_boxes,
            replicas=replicas,
            precision=precision,
            backend=backend,
            checkpoint_out=self.checkpoint_path,
        )
