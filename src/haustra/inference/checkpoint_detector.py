"""Detectors from checkpoints of `haustra train`, run by PyTorch."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from haustra.core.backend_names import BackendFlag
from haustra.core.errors import HaustraError, needs_extra
from haustra.core.locks import LockedError, locked_folder
from haustra.core.operating_point import OperatingPoint
from haustra.core.paths import run_folder_of
from haustra.inference.detector import Detector, trained_on_crops


def open_checkpoint(
    path: Path, *, kind: Literal["tiny", "big"] | None, backend: BackendFlag | None
) -> Detector:
    """Open a checkpoint; arguments and errors are those of `open_detector`."""
    with needs_extra("train", needed_for=f"reading the checkpoint {path}"):
        from haustra.backends.choose import choose_backend
        from haustra.models.checkpoint import check_kind, read_checkpoint
        from haustra.models.predict import predict_slots
    header, model = read_checkpoint(path)
    check_kind(path, header=header, wanted=kind)
    chosen = choose_backend(backend)
    return Detector(
        predict_slots=predict_slots(model.to(chosen.device)),
        kind=header.model.kind,
        caption=header.kind_name,
        input_size_wh=header.input_size_wh,
        resize_mode=header.resize_mode,
        class_names=header.class_names,
        operating_point=header.operating_point,
        backend=str(chosen),
        path=path,
        history=header.history,
        warehouse_version=header.warehouse_version,
        crops=trained_on_crops(header.sources),
        training_groups=header.training_groups,
    )


def store_operating_point(path: Path, point: OperatingPoint) -> None:
    """Write another operating point into a checkpoint's header; the weights stay."""
    from haustra.models.checkpoint import read_checkpoint, write_checkpoint

    try:
        with locked_folder(run_folder_of(path)):
            header, model = read_checkpoint(path)
            header = replace(header, operating_point=point)
            write_checkpoint(path, header=header, state=model.state_dict())
    except LockedError as error:
        raise HaustraError(
            f"{path} is being trained ({error.holder}), which would replace its operating point; "
            "fit it after the end of the training"
        ) from None
