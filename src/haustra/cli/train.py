"""`haustra train`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter, Token

from haustra.cli.terminal import Flags, Json, build_progress, print_result, table_lines
from haustra.core.errors import HaustraError, needs_extra
from haustra.core.files import read_json
from haustra.core.paths import to_path
from haustra.core.progress_bars import duration_text
from haustra.evaluation.tables import score_table
from haustra.training.config import TrainConfig
from haustra.training.recipe import Recipe, parse_recipe, read_recipe

CONFIG_FLAG = "--config"
BYTES_PER_GB = 1e9


def _convert_recipe(_kind: object, tokens: Sequence[Token]) -> Recipe:
    """Return the recipe of `--recipe FILE`, or the one that `--config` found in a config.json."""
    (token,) = tokens
    if token.source == "cli":
        return read_recipe(token.value)
    return parse_recipe(json.loads(token.value), name=f"{token.source}: recipe")


# One flag that takes a file, instead of a flag per setting.
Parameter(converter=_convert_recipe, accepts_keys=False, n_tokens=1, show_default=False)(Recipe)


def settings_from_file(
    _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Fill the flags that were not given from the file of `--config`, as cyclopts asks for it."""
    given = {argument.name: argument for argument in arguments}
    if CONFIG_FLAG not in given or not given[CONFIG_FLAG].tokens:
        return
    path = to_path(given[CONFIG_FLAG].tokens[0].value)
    settings = read_json(path, what="the config.json of a training's run folder")
    if not isinstance(settings, dict):
        raise HaustraError(
            f"{path}: expected a JSON object of settings, such as the config.json of a run folder"
        )
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if flag not in given or flag == CONFIG_FLAG:
            raise HaustraError(
                f"{path}: {name!r} is not a setting of `haustra train`; expected one of the flags "
                "of `haustra train --help`, with _ for -"
            )
        if value is not None and not given[flag].tokens:
            text = value if isinstance(value, str) else json.dumps(value)
            given[flag].append(Token(keyword=flag, value=text, source=str(path)))


def _dry_run_lines(value: dict[str, Any]) -> list[str]:
    """Return the findings of a dry run as text."""
    available = value["available_memory_bytes"]
    of_memory = f" of {available / BYTES_PER_GB:.1f} GB available" if available else ""
    steps = value["num_steps"]
    return [
        f"{value['num_parameters']:,} parameters, {value['seconds_per_step']:.3f} s a step"
        + (f", {steps} steps" if steps else ""),
        f"time: training {duration_text(value['training_s'])}, validating "
        f"{duration_text(value['validation_s'])}",
        f"memory: {value['peak_memory_bytes'] / BYTES_PER_GB:.2f} GB{of_memory}",
        f"disk: {value['disk_bytes'] / BYTES_PER_GB:.2f} GB of "
        f"{value['free_disk_bytes'] / BYTES_PER_GB:.1f} GB free",
        "dry run: nothing was written; the same command without --dry-run trains",
    ]


def train(
    *,
    config: Annotated[TrainConfig, Flags],
    config_file: Annotated[Path | None, Parameter(name=CONFIG_FLAG)] = None,  # noqa: ARG001 read by settings_from_file
    as_json: Json = False,
) -> None:
    """Train TinyDet or BigDet from a warehouse manifest.

    Args:
        config_file: Settings from a run folder's config.json; flags that are given override them.
    """
    with needs_extra("train", needed_for="haustra train"):
        from haustra.training.dry_run import dry_run
        from haustra.training.loop import train_detector

    if config.dry_run:
        found = asdict(dry_run(config))
        print_result(found, *_dry_run_lines(found), as_json=as_json)
        return
    result = train_detector(config, progress=build_progress(as_json=as_json))
    lines = []
    if result.validation:
        table = score_table({"val": result.validation})
        lines = table_lines(table.columns, rows=table.rows)
    print_result(
        {
            "checkpoint": result.checkpoint,
            "run_folder": result.run_folder,
            "metrics": result.metrics_path,
            "weights_sha256": result.weights_sha256,
            "seconds": result.seconds,
            "operating_point": result.header.operating_point.to_json(),
            "validation": result.validation and result.validation.to_json(),
        },
        *lines,
        f"checkpoint {result.checkpoint} (weights {result.weights_sha256[:16]}), "
        f"metrics and curves in {result.run_folder}, {result.seconds:.0f} s",
        f"next: haustra infer --detector-weights {result.checkpoint} --image IMAGE",
        as_json=as_json,
    )
