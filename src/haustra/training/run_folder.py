"""The run folder beside a checkpoint: settings, data, environment and metrics of its training.

`config.json` (resolved settings; `haustra train --config` takes it), `environment.json`,
`metrics.jsonl`, `gallery.png`, `curves.png`, and `states/` while the training is not done.
"""

from pathlib import Path
from typing import Any

from haustra.backends.choose import Backend
from haustra.core.environment import describe_environment
from haustra.core.errors import MissingExtraError
from haustra.core.files import write_json_atomic
from haustra.training.config import ONE_TIME_SETTINGS, TrainConfig
from haustra.warehouse.format import WarehouseManifest

CONFIG_NAME = "config.json"
ENVIRONMENT_NAME = "environment.json"
CURVES_NAME = "curves.png"
GALLERY_NAME = "gallery.png"
STATES_NAME = "states"
BAD_BATCH_NAME = "nonfinite_batch.json"


def write_run_files(
    config: TrainConfig,
    *,
    manifest: WarehouseManifest,
    initial_weights: dict[str, Any],
    num_threads: int,
    backend: Backend,
) -> None:
    """Write `config.json` and `environment.json`.

    Args:
        config: The resolved settings.
        manifest: The warehouse's manifest.
        initial_weights: Source and license of the first weights.
        num_threads: Threads of PyTorch; the sums, and therefore the weights, depend on it.
        backend: The backend that computes.
    """
    settings = {k: v for k, v in config.to_json().items() if k not in ONE_TIME_SETTINGS}
    write_json_atomic(config.run_folder / CONFIG_NAME, value=settings)
    write_json_atomic(
        config.run_folder / ENVIRONMENT_NAME,
        value={
            **describe_environment(),
            "num_threads": num_threads,
            "backend": backend.name,
            "hardware": backend.hardware,
            "warehouse": {
                "manifest": str(config.manifest),
                "version": manifest.version,
                "splits": {name: counts.model_dump() for name, counts in manifest.splits.items()},
                "sources": [source.model_dump() for source in manifest.sources],
            },
            "initial_weights": initial_weights,
        },
    )


def draw_training_curves(path: Path, *, history: list[dict[str, Any]]) -> None:
    """Draw loss, learning rate, validation and speed by epoch.

    Args:
        path: The PNG file.
        history: One entry per epoch, at least one.

    Raises:
        MissingExtraError: The package matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train", needed_for="the curves") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    epochs = [entry["epoch"] for entry in history]
    marker = "o" if len(epochs) == 1 else None
    for name in ("loss", "objectness", "l1", "iou", "slots"):
        if name in history[0]:
            values = [entry[name] for entry in history]
            axes[0, 0].plot(epochs, values, label=name.replace("_", " "), marker=marker)
    axes[0, 0].set(title="training loss", yscale="log")
    axes[0, 0].legend(fontsize="small")
    validated = [entry for entry in history if "val" in entry]
    for name, label in (("ap50", "AP50"), ("ap75", "AP75"), ("ap50_95", "AP50-95")):
        scores = [entry["val"]["average_precision"][name] for entry in validated]
        axes[0, 1].plot([entry["epoch"] for entry in validated], scores, marker="o", label=label)
    axes[0, 1].set(title="validation", ylim=(0, 1))
    axes[0, 1].legend(fontsize="small", loc="lower right")
    axes[1, 0].plot(epochs, [entry["lr"] for entry in history], marker=marker)
    axes[1, 0].set(title="learning rate", xlabel="epoch", ylim=(0, None))
    axes[1, 1].plot(epochs, [entry["images_per_s"] for entry in history], marker=marker)
    axes[1, 1].set(title="images per second", xlabel="epoch", ylim=(0, None))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
