"""Latency of ONNX models on one thread, in turns, as a ratio to one of them.

Absolute times drift on a shared machine; the ratio of two models that ran within the same round
does not. Only one session computes at a time, and no idle pool spins.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

WARM_UP_ROUNDS = 15
ROUNDS = 150


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time that one model takes for one image."""

    median_ms: float
    ratio: tuple[float, float, float] | None
    """Ratio to the reference in the same round: lower quartile, median, upper quartile."""


def open_single_thread(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on one thread, without spinning."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prepare_feed(
    session: onnxruntime.InferenceSession, *, image: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """Return an image uint8 [H,W,3] as the input of a model; this is not timed.

    haustra's models take the stored bytes, the peer's takes float32 [1,3,H,W] in 0..1.
    """
    (wanted,) = session.get_inputs()
    if wanted.type == "tensor(uint8)":
        return {wanted.name: image[None]}
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return {wanted.name: np.ascontiguousarray(pixels)}


def summarize(seconds: NDArray[np.float64], *, reference: int | None) -> list[Latency]:
    """Turn the times [rounds, models] into medians and ratios to one model's column."""
    medians = np.median(seconds, axis=0) * 1000
    if reference is None:
        return [Latency(median_ms=float(ms), ratio=None) for ms in medians]
    ratios = np.quantile(seconds / seconds[:, [reference]], [0.25, 0.5, 0.75], axis=0)
    return [
        Latency(median_ms=float(ms), ratio=(float(low), float(middle), float(high)))
        for ms, (low, middle, high) in zip(medians, ratios.T, strict=True)
    ]


def measure_latencies(
    paths: Mapping[str, Path], *, image: NDArray[np.uint8], reference: str
) -> dict[str, Latency]:
    """Time models in turns on one image, each round beginning with another model.

    Args:
        paths: The models by name.
        image: Image uint8 [H,W,3] of the size that they take.
        reference: Name of the model whose time divides the others; it may be absent.
    """
    sessions = [open_single_thread(path) for path in paths.values()]
    feeds = [prepare_feed(session, image=image) for session in sessions]
    seconds = np.zeros((WARM_UP_ROUNDS + ROUNDS, len(sessions)))
    for number, row in enumerate(seconds):
        for turn in range(len(sessions)):
            position = (number + turn) % len(sessions)
            started = time.perf_counter()
            sessions[position].run(None, feeds[position])
            row[position] = time.perf_counter() - started
    names = list(paths)
    column = names.index(reference) if reference in names else None
    return dict(zip(names, summarize(seconds[WARM_UP_ROUNDS:], reference=column), strict=True))
