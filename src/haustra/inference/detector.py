"""Opening a trained detector, whatever file it is in: a checkpoint or an exported ONNX model."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from haustra.core.backend_names import BackendFlag, wanted_backend
from haustra.core.errors import MissingExtraError
from haustra.core.operating_point import OperatingPoint
from haustra.inference.image_detector import TrainedDetector
from haustra.inference.onnx_detector import OnnxDetector, is_onnx_path


class CheckpointDetector(TrainedDetector):
    """TinyDet or BigDet from a checkpoint, run by PyTorch, or on WebGPU by tinygrad.

    Raises:
        HaustraError: it does not load, is of another kind than `kind`, or the backend is not here;
            there is no fallback.
        MissingExtraError: torch is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: Literal["tiny", "big"] | None = None,
        backend: BackendFlag | None = None,
    ) -> None:
        try:
            from haustra.backends.choose import choose_backend
            from haustra.backends.predictors import build_predictor
            from haustra.models.checkpoint import check_kind, read_checkpoint
        except ImportError:
            raise MissingExtraError(
                "torch", extra="train", needed_for=f"reading the checkpoint {path}"
            ) from None
        self.header, self.model = read_checkpoint(path)
        check_kind(path, header=self.header, wanted=kind)
        chosen = choose_backend(backend)
        super().__init__(
            build_predictor(self.model, backend=chosen),
            backend=str(chosen),
            caption=self.header.kind_name,
            input_size_wh=self.header.input_size_wh,
            resize_mode=self.header.resize_mode,
            operating_point=self.header.operating_point,
            history=self.header.history,
            warehouse_version=self.header.warehouse_version,
            training_groups=self.header.training_groups,
        )
        self.path = path

    def store_operating_point(self, point: OperatingPoint) -> None:
        """Write another operating point into the checkpoint's header; the weights stay."""
        from haustra.models.checkpoint import write_checkpoint

        self.header = replace(self.header, operating_point=point)
        self.operating_point = point
        write_checkpoint(self.path, header=self.header, state=self.model.state_dict())


def open_detector(
    path: Path,
    *,
    kind: Literal["tiny", "big"] | None = None,
    backend: BackendFlag | None = None,
) -> TrainedDetector:
    """Open a file of `haustra export` (its name ends in .onnx) or a checkpoint of `haustra train`.

    Args:
        path: the file.
        kind: what it must hold.
        backend: what computes; HAUSTRA_BACKEND's value by default, else the CPU.

    Raises:
        HaustraError: it does not load, is of another kind than `kind`, or the backend is not here;
            there is no fallback.
        MissingExtraError: what runs such a file is not installed.
    """
    if is_onnx_path(path):
        return OnnxDetector(path, kind=kind, backend=wanted_backend(backend))
    return CheckpointDetector(path, kind=kind, backend=backend)
