"""Detectors from ONNX models of `haustra export`, run by ONNX Runtime without torch.

A JSON value in the file's metadata describes the model.
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
from haustra.core.paths import plain_path
from haustra.inference.detector import Detector

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_NAME = "haustra-onnx"
FORMAT_VERSION = 1
METADATA_KEY = "haustra"
INPUT_NAME, OUTPUT_NAMES = "images", ("boxes_xyxy", "scores")

ONLY_ERRORS = 3
"""ONNX Runtime's log severity. Its warnings concern its own choices, not the user's."""


def _not_from_haustra(path: Path) -> HaustraError:
    return HaustraError(
        f"{path} is not a haustra ONNX model; expected a file that `haustra export` wrote"
    )


CPU_PROVIDER = "CPUExecutionProvider"
PROVIDERS: dict[BackendName, tuple[str, str]] = {
    "cuda": ("CUDAExecutionProvider", "run: pip install onnxruntime-gpu"),
    "mps": ("CoreMLExecutionProvider", "it comes with onnxruntime on a Mac"),
    "wgpu": ("WebGpuExecutionProvider", "run: pip install onnxruntime-webgpu"),
    "cpu": (CPU_PROVIDER, "run: pip install 'haustra[onnx]'"),
}
"""ONNX Runtime's name of each backend and how to get it, in the order of `auto`."""


def open_session_on(
    path: Path, *, backend: BackendFlag | None, num_threads: int | None = None
) -> tuple["InferenceSession", BackendName]:
    """Load an ONNX model on a backend, as `open_session`.

    Returns:
        The session and its backend, which for `auto` is the first that runs.

    Raises:
        HaustraError: As for `open_session`, or ONNX Runtime does not have the backend, or it does
            not start. There is no fallback to the CPU.
    """
    available = _import_onnxruntime(path).get_available_providers()
    wanted = wanted_backend(backend)
    names: list[BackendName] = list(PROVIDERS) if wanted == "auto" else [wanted]
    for name in names:
        provider, remedy = PROVIDERS[name]
        if provider not in available:
            continue
        providers = list(dict.fromkeys([provider, CPU_PROVIDER]))
        session = open_session(path, num_threads=num_threads, providers=providers)
        # ONNX Runtime leaves out a provider that does not start, without an error.
        if provider in session.get_providers():
            return session, name
    raise HaustraError(
        f"{option('backend', wanted)} for {path} needs ONNX Runtime's {provider}, which does not "
        f"run here; {remedy}, or use {option('backend', 'cpu')}"
    )


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
    """Load an ONNX model, by default on the CPU.

    Args:
        path: The file.
        num_threads: Threads of one inference. None uses every core, whose threads wait actively
            between two nodes: this is faster and keeps the cores busy.
        providers: ONNX Runtime's names of the backends to use, the best first.

    Raises:
        HaustraError: The file is missing, or ONNX Runtime does not load it.
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
        with plain_path(path) as name:
            return onnxruntime.InferenceSession(name, options, providers=list(providers))
    except (
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NotImplemented,
    ):
        raise _not_from_haustra(path) from None


def read_metadata(session: "InferenceSession", *, path: Path) -> dict[str, Any]:
    """Return the description of the model that `haustra export` wrote into the file.

    Raises:
        HaustraError: The model was not written by haustra, or has another format version.
    """
    try:
        value = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "null"))
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise _not_from_haustra(path)
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
        backend: Backend that runs it.
        num_threads: Threads of one inference, as for `open_session`.
    """
    session, chosen = open_session_on(path, backend=backend, num_threads=num_threads)
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
