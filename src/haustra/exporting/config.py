"""`ExportConfig`: every setting of an export, declared once without importing torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from haustra.core.checked import CheckedSettings, OutputFile, Whole
from haustra.core.errors import HaustraError, option

LOWEST_OPSET, HIGHEST_OPSET = 18, 21
"""PyTorch writes 18 by default. ONNX Runtime 1.20, the oldest supported one, reads up to 21."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CheckedSettings):
    """Settings of `haustra export`."""

    detector_weights: Path
    """The checkpoint to export."""
    out: OutputFile | None = None
    """The ONNX file; by default the checkpoint's path without .bin and with .onnx, or with
    .int8.onnx for --int8."""
    manifest: Path | None = None
    """The warehouse whose images check the export; by default that of the training."""
    int8: bool = False
    """Quantize to 8 bits, calibrated on training images of the warehouse."""
    opset: Annotated[Whole, Field(ge=LOWEST_OPSET, le=HIGHEST_OPSET)] = LOWEST_OPSET
    """Version of the ONNX operators, 18 to 21. Most programs read the lowest."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and self.out.suffix != ".onnx":
            raise HaustraError(f"{option('out', self.out)}: expected a name that ends in .onnx")

    @property
    def out_path(self) -> Path:
        """The file that is written."""
        # Only `.bin` is a suffix: `exp_lr0.001` and `exp_lr0.002` are two names.
        stem = str(self.detector_weights).removesuffix(".bin")
        return self.out or Path(f"{stem}{'.int8' if self.int8 else ''}.onnx")
