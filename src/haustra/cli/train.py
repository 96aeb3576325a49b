"""`haustra train`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.scores import print_scores
from haustra.cli.terminal import build_progress, print_json, print_lines
from haustra.core.errors import MissingExtraError
from haustra.train.config import TrainConfig


def train(
    *,
    config: Annotated[TrainConfig, Parameter(name="*")],
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Train TinyDet or BigDet from a warehouse manifest.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    try:
        from haustra.train.loop import train_detector
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", extra="train", needed_for="haustra train") from None

    result = train_detector(config, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(
            {
                "checkpoint": str(result.checkpoint_path),
                "metrics": str(result.metrics_path),
                "weights_sha256": result.weights_sha256,
                "seconds": result.seconds,
                "validation": result.validation and result.validation.to_json(),
            }
        )
        return
    if result.validation:
        print_scores({"val": result.validation})
    print_lines(
        [
            (
                f"checkpoint {result.checkpoint_path} (weights {result.weights_sha256[:16]}), "
                f"metrics "
                f"{result.metrics_path}, {result.seconds:.0f} s"
            ),
            f"next: haustra infer --detector-weights {result.checkpoint_path} --image IMAGE",
        ]
    )
