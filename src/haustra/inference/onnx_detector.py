"""A detector that `haustra export` wrote, run by ONNX Runtime. Needs no torch.

What is to be known about the model is a JSON value in the file's own metadata.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from haustra.core.backend_names import BackendFlag, BackendName, wanted_backend
from haustra.core.detections import Slots
from haustra.core.errors import HaustraError, needs_extra, option
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_NAME = "haustra-onnx"
FORMAT_VERSION = 1
METADATA_KEY = "haustra"
INPUT_NAME, OUTPUT_NAMES = "images", ("boxes_xyxy", "scores")

ONLY_ERRORS = 3
"""ONNX Runtime's severity: its warnings are about its own choices, not about the user's."""


def _not_ours(path: Path) -> HaustraError:
    return HaustraError(
        f"{path} is not a haustra ONNX model; expected a file that `haustra export` wrote"
    )


CPU_PROVIDER = "CPUExecutionProvider"
PROVIDERS: dict[BackendName, tuple[str, str]] = {
    "cuda": ("CUDAExecutionProvider", "run: pip install onnxruntime-gpu"),
    "mps": ("CoreMLExecutionProvider", "it comes with onnxruntime on a Mac"),
    "wgpu": ("WebGpuExecutionProvider", "run: pip install onnxruntime-webgpu"),
    "ndarray": (CPU_PROVIDER, "run: pip install 'haustra[onnx]'"),
}
"""What ONNX Runtime calls a backend, and how to get it; in the order of `auto`."""


def open_session_on(
    path: Path, *, backend: BackendFlag, num_threads: int | None = None
) -> tuple["InferenceSession", BackendName]:
    """Load an ONNX model on a backend, as `open_session`.

    Returns:
        The session, and the backend that it runs on: for `auto` the first that takes the model.

    Raises:
        HaustraError: as `open_session`, or ONNX Runtime has no such provider here, or it does not
            start; there is no fallback to the CPU.
    """
    if backend == "auto":
        for name in PROVIDERS:
            session = _open_with(path, backend=name, num_threads=num_threads)
            if session is not None:
                return session, name
        raise AssertionError("the CPU is always there")
    session = _open_with(path, backend=backend, num_threads=num_threads)
    if session is None:
        provider, remedy = PROVIDERS[backend]
        raise HaustraError(
            f"{option('backend', backend)} for {path} needs ONNX Runtime's {provider}, which does "
            f"not run here; {remedy}, or use {option('backend', 'ndarray')}"
        )
    return session, backend


def _open_with(
    path: Path, *, backend: BackendName, num_threads: int | None
) -> "InferenceSession | None":
    """Open a model on one backend, or return None where ONNX Runtime lacks it."""
    provider, _ = PROVIDERS[backend]
    onnxruntime = _import_onnxruntime(path)
    if provider not in onnxruntime.get_available_providers():
        return None
    providers = [provider] if provider == CPU_PROVIDER else [provider, CPU_PROVIDER]
    session = open_session(path, num_threads=num_threads, providers=providers)
    # A provider that does not start is left out by ONNX Runtime without an error.
    return session if provider in session.get_providers() else None


def _import_onnxruntime(path: Path) -> Any:
    with needs_extra("onnx", needed_for=f"reading the ONNX model {path}"):
        import onnxruntime
    return onnxruntime


def open_session(
    path: Path,
    *,
    num_threads: int | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
) -> "InferenceSession":
    """Load an ONNX model, for the CPU unless told otherwise.

    Args:
        path: the file.
        num_threads: threads of one inference; None takes every core, and lets the idle ones spin
            between two nodes, which is faster and occupies them.
        providers: ONNX Runtime's names of what may compute, the best first.

    Raises:
        HaustraError: the file is missing, or ONNX Runtime does not load it.
        MissingExtraError: ONNX Runtime is not installed.
    """
    onnxruntime = _import_onnxruntime(path)
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    if not path.is_file():
        raise HaustraError(
            f"{path} does not exist; expected an ONNX model; make one with `haustra export`"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_ERRORS
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except (
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NotImplemented,
    ):
        raise _not_ours(path) from None


def read_metadata(session: "InferenceSession", *, path: Path) -> dict[str, Any]:
    """Return what `haustra export` wrote into the file about the model.

    Raises:
        HaustraError: the model is not one of ours, or of another format version.
    """
    try:
        value = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "null"))
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise _not_ours(path)
    if value.get("format_version") != FORMAT_VERSION:
        raise HaustraError(
            f"{path} has ONNX format version {value.get('format_version')!r}; this haustra reads "
            f"version {FORMAT_VERSION}; export it again, or use the haustra that wrote it"
        )
    return value


def open_onnx(
    path: Path,
    *,
    kind: Literal["tiny", "big"] | None = None,
    backend: BackendFlag | None = None,
    num_threads: int | None = None,
) -> Detector:
    """Open an ONNX model; arguments and errors are those of `open_detector`.

    Args:
        path: The file.
        kind: Kind that it must have; None allows any.
        backend: What computes.
        num_threads: Threads of one inference, as for `open_session`.
    """
    wanted = wanted_backend(backend)
    session, chosen = open_session_on(path, backend=wanted, num_threads=num_threads)
    metadata = read_metadata(session, path=path)

    def predict(images: NDArray[np.uint8]) -> Slots:
        boxes, scores = session.run(OUTPUT_NAMES, {INPUT_NAME: images})
        return boxes, scores

    try:
        found, precision = metadata["model"]["kind"], metadata["precision"]
        width, height = metadata["input_size_wh"]
        detector = Detector(
            predict_slots=predict,
            kind=found,
            caption=f"{found}det" + ("" if precision == "float32" else f" {precision}"),
            input_size_wh=(width, height),
            resize_mode=metadata["resize_mode"],
            class_names=tuple(metadata.get("class_names", ("polyp",))),
            operating_point=OperatingPoint(**metadata["operating_point"]),
            backend=f"backend {chosen}: ONNX Runtime's {PROVIDERS[chosen][0]}",
            path=path,
            history=metadata["history"],
            warehouse_version=metadata.get("warehouse_version"),
            training_groups=tuple(metadata.get("training_groups", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HaustraError(f"{path} has damaged metadata: {error!r}") from None
    if kind is not None and found != kind:
        raise HaustraError(
            f"{path} holds {found}det, but {option('model', kind)} was asked for; expected a "
            f"{kind}det model, or pass {option('model', found)}"
        )
    return detector
