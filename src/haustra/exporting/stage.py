"""The export stage writes an ONNX model after checking it against its checkpoint.

The model is made and measured in a temporary folder, and written only if it passes.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from haustra.core.errors import HaustraError, option
from haustra.core.files import write_bytes_atomic
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress
from haustra.evaluation.stage import check_images_fit
from haustra.exporting.config import ExportConfig
from haustra.exporting.onnx_graph import describe_model, export_onnx, write_model
from haustra.exporting.parity import (
    COMPARED_SCORE,
    Difference,
    SplitAnswers,
    answer_split,
    compare_answers,
    median_latencies_ms,
)
from haustra.exporting.quantize import quantize_detector
from haustra.inference.detector import Detector, open_detector
from haustra.inference.onnx_detector import open_onnx
from haustra.models.checkpoint import CheckpointHeader, read_checkpoint
from haustra.warehouse.dataset import Split, open_split

MAX_BOX_SHIFT_PX = 0.5
MAX_SCORE_SHIFT = 0.001
MAX_AP_DIFFERENCE = 0.001
"""Largest differences of a float32 graph from its checkpoint. Average precision depends only on the
order of the scores, so the scores have a limit of their own."""
MAX_INT8_AP50_LOSS = 0.005  # largest loss of AP50 by 8 bits

NUM_CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class ExportedForm:
    """One form of the detector, measured on the split."""

    name: str  # `PyTorch`, `float32` or `int8`
    num_bytes: int
    ap50: float | None
    ap50_95: float | None
    difference: Difference | None  # difference from PyTorch; None for PyTorch itself
    latency_ms: float  # median time of one image on one thread, from stored pixels to boxes


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The written file, and the numbers of each form of the detector."""

    path: Path
    split_name: str
    num_images: int
    opset: int
    forms: list[ExportedForm]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"path": str(self.path)}


class _Form(NamedTuple):
    name: str
    path: Path
    answers: SplitAnswers
    difference: Difference | None


def export_detector(config: ExportConfig, *, progress: Progress | None = None) -> ExportResult:
    """Export a checkpoint to ONNX, check it against the checkpoint, and write it.

    Raises:
        HaustraError: The checkpoint or the warehouse does not load or they do not belong together,
            the file exists, or the exported model does not answer like the checkpoint.
    """
    path = config.out_path
    check_outputs(config, out=path)
    if path.exists() and not config.overwrite:
        raise HaustraError(f"{path} exists already; remove it or pass {option('overwrite', True)}")
    header, model = read_checkpoint(config.detector_weights)
    in_torch = open_detector(config.detector_weights, backend="cpu")
    train, split, notes = _open_splits(config, header=header, detector=in_torch)
    reference = answer_split(split, in_torch, progress=progress)
    forms = [_Form("PyTorch", config.detector_weights, reference, None)]

    def measure(name: str, exported: Path) -> Difference:
        detector = open_onnx(exported, backend="cpu")
        answers = answer_split(split, detector, progress=progress)
        difference = compare_answers(answers, reference=reference, size_wh=header.input_size_wh)
        forms.append(_Form(name, exported, answers, difference))
        return difference

    with tempfile.TemporaryDirectory() as temporary:
        float_path, int8_path = Path(temporary) / "float32.onnx", Path(temporary) / "int8.onnx"
        export_onnx(model, header=header, path=float_path, opset=config.opset)
        _check_float32(measure("float32", float_path), split=split)
        if config.int8:
            quantize_detector(float_path, int8_path, batches=partial(calibration_batches, train))
            description = describe_model(model, header=header, opset=config.opset, precision="int8")
            write_model(int8_path, proto=onnx.load(int8_path), description=description)
            _check_int8(measure("int8", int8_path), split=split)
        exported_forms = _time_forms(forms, in_torch=in_torch, split=split)
        write_bytes_atomic(path, data=(int8_path if config.int8 else float_path).read_bytes())
    if reference.average_precision.ap50 is None:
        why = f"none of the {len(split)} {split.name} images has a labeled polyp"
        notes.append(f"AP50 lost: not checked, because {why}")
    if forms[-1].difference and forms[-1].difference.score_shift is None:
        why = f"no box on the {len(split)} {split.name} images scores {COMPARED_SCORE}"
        notes.append(f"shift of boxes: not checked, because {why}")
    return ExportResult(
        path=path,
        split_name=split.name,
        num_images=len(split),
        opset=config.opset,
        forms=exported_forms,
        notes=notes,
    )


def _open_splits(
    config: ExportConfig, *, header: CheckpointHeader, detector: Detector
) -> tuple[Split, Split, list[str]]:
    """Return the training images, the images to check on, and notes for the user."""
    manifest_path = config.manifest
    if manifest_path is None:
        manifest_path = Path(header.training.get("manifest", "manifest.json"))
        if not manifest_path.exists():
            raise HaustraError(
                f"{config.detector_weights} was trained on {manifest_path}, which does not exist; "
                f"expected {option('manifest')} with a warehouse to check the export on"
            )
    train = open_split(manifest_path, split="train")
    check_images_fit(train.manifest, manifest_path=manifest_path, detector=detector)
    if not len(train):
        raise HaustraError(
            f"{manifest_path} has no training images; expected a warehouse with some"
        )
    if len(val := open_split(manifest_path, split="val")):
        return train, val, []
    note = f"{manifest_path} has no validation images: checked on its training images"
    return train, train, [note]


def _time_forms(forms: Sequence[_Form], *, in_torch: Detector, split: Split) -> list[ExportedForm]:
    """Measure the time of one image on one thread, and return the forms with all numbers."""
    exported = [open_onnx(form.path, backend="cpu", num_threads=1) for form in forms[1:]]
    image = split.gather(np.zeros(1, dtype=np.int64)).images[0]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        latencies_ms = median_latencies_ms([in_torch, *exported], image=image)
    finally:
        torch.set_num_threads(num_threads)
    return [
        ExportedForm(
            name=form.name,
            num_bytes=form.path.stat().st_size,
            ap50=form.answers.average_precision.ap50,
            ap50_95=form.answers.average_precision.ap50_95,
            difference=form.difference,
            latency_ms=latency_ms,
        )
        for form, latency_ms in zip(forms, latencies_ms, strict=True)
    ]


def calibration_batches(train: Split) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of the calibration, uint8 [B,H,W,3], spread over the training split."""
    count = min(len(train), NUM_CALIBRATION_IMAGES)
    order = np.linspace(0, len(train) - 1, count).round().astype(np.int64)
    for start in range(0, len(order), CALIBRATION_BATCH):
        yield train.gather(order[start : start + CALIBRATION_BATCH]).images


def _check_float32(difference: Difference, *, split: Split) -> None:
    """Refuse a float32 graph that does not answer like its checkpoint."""
    limits = (
        ("boxes", difference.max_box_shift_px, MAX_BOX_SHIFT_PX, " px"),
        ("scores", difference.score_shift, MAX_SCORE_SHIFT, ""),
        ("AP50", difference.ap50_loss, MAX_AP_DIFFERENCE, ""),
        ("AP50-95", difference.ap50_95_loss, MAX_AP_DIFFERENCE, ""),
    )
    known = [
        (name, abs(value), limit, unit) for name, value, limit, unit in limits if value is not None
    ]
    # A NaN fails this comparison.
    if not all(value <= limit for _, value, limit, _ in known):
        found = ", ".join(
            f"{name} by {value:.4f}{unit} (at most {limit})" for name, value, limit, unit in known
        )
        raise HaustraError(
            f"the exported model does not answer like the checkpoint on {len(split)} {split.name} "
            f"images: {found}; nothing was written; try another {option('opset')}, or other "
            "versions of torch and onnxruntime"
        )


def _check_int8(difference: Difference, *, split: Split) -> None:
    """Refuse a quantized graph that finds less."""
    if (difference.ap50_loss or 0.0) > MAX_INT8_AP50_LOSS:
        raise HaustraError(
            f"{option('int8', True)}: 8 bits lose {difference.ap50_loss:.4f} AP50 on {len(split)} "
            f"{split.name} images (at most {MAX_INT8_AP50_LOSS}); nothing was written; export "
            f"without {option('int8')}"
        )
