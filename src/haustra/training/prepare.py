"""Checks of a training's settings and data, before any work begins."""

from dataclasses import dataclass

from haustra.backends.choose import Backend, choose_backend, resolve_precision
from haustra.core.checked import OUTPUT_FOLDER
from haustra.core.errors import HaustraError, option
from haustra.core.outputs import check_output, check_outputs
from haustra.models.checkpoint import read_header
from haustra.training.config import TrainConfig
from haustra.training.replicas import default_replicas
from haustra.warehouse.dataset import Split, Warehouse, open_warehouse


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training whose settings and data are checked, and that has not begun."""

    config: TrainConfig  # the resolved settings: nothing is left open
    split: Split  # the training split
    validation_split: Split
    backend: Backend


def prepare_training(config: TrainConfig) -> Prepared:
    """Check settings and data, and decide what the settings leave open."""
    checkpoint, metrics = config.checkpoint_path, config.metrics_path
    check_outputs(config, checkpoint_out=checkpoint, metrics_out=metrics)
    check_output("checkpoint_out", config.run_folder, kind=OUTPUT_FOLDER)
    _check_target(config)
    warehouse = open_warehouse(config.manifest, config=config.store_config)
    split = _open_training_split(config, warehouse=warehouse)
    validation_split = warehouse.split("val")
    if config.patience and not validation_split.num_boxes:
        raise HaustraError(
            f"{option('patience', config.patience)}: the validation split of {config.manifest} has "
            f"no box to measure a gain with; leave {option('patience')} out, or build a warehouse "
            "with more groups"
        )
    backend = choose_backend(config.backend, for_training=True)
    resolved = config.resolve(
        max_boxes=split.manifest.max_boxes,
        replicas=_resolve_replicas(config, backend=backend),
        precision=resolve_precision(config.precision, backend=backend.name),
        backend=backend.name,
    )
    return Prepared(
        config=resolved, split=split, validation_split=validation_split, backend=backend
    )


def _resolve_replicas(config: TrainConfig, *, backend: Backend) -> int:
    """Return the number of replicas; refuse several where one program computes the whole batch."""
    if backend.name == "cpu" and config.compile != "on":
        return config.replicas or default_replicas(config.batch_size)
    if (config.replicas or 1) > 1:
        cause = ("compile", "on") if config.compile == "on" else ("backend", backend.name)
        raise HaustraError(
            f"{option('replicas', config.replicas)} with {option(*cause)}: expected 1, since "
            "replicas are for the CPU, and not for compiled models"
        )
    return 1


def _check_target(config: TrainConfig) -> None:
    """Refuse to overwrite a file that is not a checkpoint of the same kind."""
    path = config.checkpoint_path
    if not path.exists() or config.overwrite:
        return
    shown = option("checkpoint_out", path)
    remedy = f"choose a new name, or pass {option('overwrite', True)}"
    try:
        header = read_header(path)
    except HaustraError as error:
        raise HaustraError(f"{shown} is kept: {error.message}; {remedy}") from None
    if header.model.kind != config.model:
        raise HaustraError(f"{shown} holds {header.kind_name}, not {config.model}det; {remedy}")


def _open_training_split(config: TrainConfig, *, warehouse: Warehouse) -> Split:
    split = warehouse.split("train")
    max_boxes = split.manifest.max_boxes
    if config.max_boxes is not None and config.max_boxes != max_boxes:
        raise HaustraError(
            f"{option('max_boxes', config.max_boxes)} differs from the warehouse's max_boxes "
            f"{max_boxes}; leave it out, or build a warehouse with `haustra etl --max-boxes "
            f"{config.max_boxes}`"
        )
    if not len(split):
        raise HaustraError(
            f"{config.manifest}: the training split is empty, so there is nothing to train on; "
            "evaluate a detector on this warehouse with `haustra eval`, or build one whose "
            "`haustra etl --split` gives train a share"
        )
    if not split.num_boxes:
        raise HaustraError(
            f"{config.manifest}: the training split has {len(split)} sample(s) and no box, so "
            "there is nothing to learn; look at what `haustra prune` kept and at the labels that "
            "`haustra import` made"
        )
    return split
