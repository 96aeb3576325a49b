"""Opening a trained detector, whatever file it is in: a checkpoint or an exported ONNX model."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from haustra.core.errors import MissingExtraError
from haustra.core.operating_point import OperatingPoint
from haustra.infer.image_detector import TrainedDetector
from haustra.infer.onnx_detector import OnnxDetector, is_onnx_path


class CheckpointDetector(TrainedDetector):
    """TinyDet or BigDet from a checkpoint, run by PyTorch.

    Raises:
        HaustraError: it does not load, or is of another kind than `kind`; there is no fallback.
        MissingExtraError: torch is not installed.
    """

    def __init__(self, path: Path, *, kind: Literal["tiny", "big"] | None = None) -> None:
        try:
            from haustra.models.checkpoint import check_kind, read_checkpoint
            from haustra.models.predict import predict_slots
        except ImportError:
            raise MissingExtraError(
                "torch", extra="train", needed_for=f"reading the checkpoint {path}"
            ) from None
        self.header, self.model = read_checkpoint(path)
        check_kind(path, header=self.header, wanted=kind)
        super().__init__(
            predict_slots(self.model),
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


def open_detector(path: Path, *, kind: Literal["tiny", "big"] | None = None) -> TrainedDetector:
    """Open a file of `haustra export` (its name ends in .onnx) or a checkpoint of `haustra train`.

    Raises:
        HaustraError: it does not load, or is of another kind than `kind`; there is no fallback.
        MissingExtraError: what runs such a file is not installed.
    """
    if is_onnx_path(path):
        return OnnxDetector(path, kind=kind)
    return CheckpointDetector(path, kind=kind)
