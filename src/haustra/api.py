"""The public Python API: one function per stage, imported as `haustra.simulate` and so on.

Each function calls the same library function as the command of that stage. A function's settings
are the fields of the stage's settings dataclass, so `haustra train --batch-size 8` is
`haustra.train(dataset, batch_size=8)`.

Where `progress` is None, a bar is shown in a notebook and on a terminal. True shows it everywhere,
False nowhere.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from haustra.core.backend_names import BackendFlag
from haustra.core.errors import HaustraError, needs_extra, option
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress
from haustra.core.progress_bars import choose_progress
from haustra.evaluation.config import EvalConfig
from haustra.exporting.config import ExportConfig
from haustra.inference.detector import Detector, open_detector
from haustra.simulator.config import DatagenConfig
from haustra.training.config import TrainConfig
from haustra.warehouse.dataset import Warehouse, open_warehouse
from haustra.warehouse.etl_config import ETLConfig

if TYPE_CHECKING:
    from haustra.evaluation.results import EvaluationResult
    from haustra.exporting.stage import ExportResult
    from haustra.training.loop import TrainResult

__all__ = ["build_warehouse", "evaluate", "export", "load", "open_warehouse", "simulate", "train"]

ModelKind = Literal["tiny", "big"]
ShowProgress = bool | Progress | None
Function = TypeVar("Function", bound=Callable[..., Any])


def _takes_settings(config: type, *, hidden: set[str]) -> Callable[[Function], Function]:
    """Show a settings dataclass's fields as keyword parameters in `help()` and in editors.

    Any other keyword is a `TypeError` that names the parameter it resembles.

    Args:
        config: The dataclass whose fields the function takes as `**settings`.
        hidden: Fields that the function fills itself.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = {
            name: parameter
            for name, parameter in signature.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        for field in fields(config):
            if field.name not in hidden | parameters.keys():
                parameters[field.name] = inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if field.default is MISSING else field.default,
                    annotation=field.type,
                )

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            for name in named:
                if name not in parameters:
                    close = get_close_matches(name, parameters, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}{hint}"
                    )
            return function(*arguments, **named)

        call.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _location_of(dataset: Warehouse | StrPath) -> str | Path:
    """Return a warehouse's path, or its URL where it lies behind one."""
    place = dataset.path if isinstance(dataset, Warehouse) else dataset
    return place if isinstance(place, str) and "://" in place else to_path(place)


@_takes_settings(DatagenConfig, hidden={"headless"})
def simulate(
    output_root: StrPath = "captures", *, progress: ShowProgress = None, **settings: Any
) -> list[Path]:
    """Simulate colonoscopy captures and return the run folders.

    Args:
        output_root: Folder that receives the run folders.
        progress: Whether to show progress.
        **settings: Fields of `DatagenConfig`, such as `runs`, `frames`, `size` and `seed`.

    Raises:
        HaustraError: A setting is wrong, or a run folder exists with other settings.
        MissingExtraError: The extra `simulate` is not installed.
    """
    with needs_extra("simulate", needed_for="haustra.simulate"):
        from haustra.simulator.generate import generate_runs

    config = DatagenConfig(output_root=to_path(output_root), **settings)
    return generate_runs(config, progress=choose_progress(progress)).folders


@_takes_settings(ETLConfig, hidden=set())
def build_warehouse(
    captures: StrPath = "captures",
    *,
    target_size: int | tuple[int, int] | str = 384,
    split: tuple[float, float, float] | str = (0.8, 0.1, 0.1),
    progress: ShowProgress = None,
    **settings: Any,
) -> Warehouse:
    """Build a tensor warehouse from captures and open it; an existing one is opened at once.

    Args:
        captures: A run folder, or a folder of run folders.
        target_size: Side of the stored square images in pixels, or width and height.
        split: Shares of the training, validation and test split.
        progress: Whether to show progress.
        **settings: Other fields of `ETLConfig`, such as `max_boxes` and `output_root`.

    Raises:
        HaustraError: The captures hold no usable frame, or a setting is wrong.
    """
    from haustra.warehouse.etl import build_warehouse as run_etl

    size = "x".join(map(str, target_size)) if isinstance(target_size, tuple) else str(target_size)
    config = ETLConfig(
        captures=to_path(captures),
        target_size=size,
        split=",".join(map(str, split)) if isinstance(split, tuple) else split,
        **settings,
    )
    return open_warehouse(run_etl(config, progress=choose_progress(progress)).manifest_path)


@_takes_settings(TrainConfig, hidden={"manifest", "dry_run"})
def train(
    dataset: Warehouse | StrPath,
    *,
    model: ModelKind = "tiny",
    progress: ShowProgress = None,
    **settings: Any,
) -> "TrainResult":
    """Train TinyDet or BigDet on a warehouse and return where the checkpoint is.

    Args:
        dataset: An open warehouse, or the path of its manifest or folder.
        model: "tiny" finds one box an image, "big" several.
        progress: Whether to show progress.
        **settings: Other fields of `TrainConfig`, such as `epochs`, `seed` and `checkpoint_out`.

    Raises:
        HaustraError: The warehouse or a setting is wrong, or the loss is not finite.
        MissingExtraError: The extra `train` is not installed.
    """
    with needs_extra("train", needed_for="haustra.train"):
        from haustra.training.loop import train_detector

    config = TrainConfig(manifest=_location_of(dataset), model=model, **settings)
    return train_detector(config, progress=choose_progress(progress))


def load(
    path: StrPath, *, kind: ModelKind | None = None, backend: BackendFlag | None = None
) -> Detector:
    """Open a trained detector: a checkpoint, or an .onnx file of `haustra.export`.

    Args:
        path: The file.
        kind: The model that it must hold; None takes either.
        backend: Where to compute: "cpu", "cuda", "mps", "wgpu" or "auto". None takes the value of
            the environment variable HAUSTRA_BACKEND, or else the CPU.

    Raises:
        HaustraError: The file is missing or damaged, or holds another model than `kind`.
        MissingExtraError: The package that runs such a file is not installed.
    """
    return open_detector(path, kind=kind, backend=backend)


@_takes_settings(EvalConfig, hidden={"manifest", "detector_weights", "compare", "model", "backend"})
def evaluate(
    detector: Detector | StrPath,
    dataset: Warehouse | StrPath | None = None,
    *,
    progress: ShowProgress = None,
    **settings: Any,
) -> "EvaluationResult":
    """Measure a detector on a split of a warehouse, or on captures in time order.

    Args:
        detector: A detector of `haustra.load`, or the path of a checkpoint, an .onnx file or
            stored predictions (.json).
        dataset: An open warehouse, or the path of its manifest or folder. Leave it out and pass
            `captures` to measure on run folders.
        progress: Whether to show progress.
        **settings: Other fields of `EvalConfig`, such as `split`, `captures` and `report`.

    Raises:
        HaustraError: There is no frame to measure on, or a setting is wrong.
        MissingExtraError: The extra `train` is not installed.
    """
    with needs_extra("train", needed_for="haustra.evaluate"):
        from haustra.evaluation.stage import evaluate_detector

    manifest = None if dataset is None else _location_of(dataset)
    if isinstance(manifest, str):
        raise HaustraError(
            f"{option('dataset', manifest)}: evaluation reads a warehouse on this machine; "
            "expected a path, so copy the warehouse here first"
        )
    opened = detector if isinstance(detector, Detector) else None
    config = EvalConfig(
        manifest=manifest,
        detector_weights=None if isinstance(detector, Detector) else to_path(detector),
        **settings,
    )
    return evaluate_detector(config, detector=opened, progress=choose_progress(progress))


@_takes_settings(ExportConfig, hidden={"detector_weights"})
def export(
    detector: Detector | StrPath, *, progress: ShowProgress = None, **settings: Any
) -> "ExportResult":
    """Write a checkpoint as an ONNX model and check that both find the same boxes.

    Args:
        detector: A detector that was loaded from a checkpoint, or the checkpoint's path.
        progress: Whether to show progress.
        **settings: Fields of `ExportConfig`, such as `out` and `int8`.

    Raises:
        HaustraError: The file exists, or the ONNX model does not agree with the checkpoint.
        MissingExtraError: The extra `export` is not installed.
    """
    with needs_extra("export", needed_for="haustra.export"):
        from haustra.exporting.stage import export_detector

    path = detector.path if isinstance(detector, Detector) else to_path(detector)
    if path is None:
        raise HaustraError(f"{detector!r} has no file; expected a detector of `haustra.load`")
    config = ExportConfig(detector_weights=path, **settings)
    return export_detector(config, progress=choose_progress(progress))
