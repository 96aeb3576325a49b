"""Detectors from ONNX models of `haustra export`, run by ONNX Runtime without torch.

A JSON value in the file's metadata describes the model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from haustra.core.backend_names import BackendFlag, BackendName, wanted_backend
from haustra.core.detections import Slots
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError, needs_extra, option
from haustra.core.files import check_version
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector, trained_on_crops

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_NAME = "haustra-onnx"
FORMAT_VERSION = 2
METADATA_KEY = "haustra"
IR_VERSION_FIELD, OPSET_FIELD, METADATA_FIELD = 1, 8, 14
"""Numbers of fields of onnx.proto's ModelProto."""
NO_SEAL = b"0" * 64  # digits in the place of a file's SHA-256 while it is computed
INPUT_NAME, OUTPUT_NAMES = "images", ("boxes_xyxy", "scores")

ONLY_ERRORS = 3  # ONNX Runtime's log severity. Its warnings concern its own choices, not the user's


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


def open_session(
    path: Path, *, data: bytes, backend: BackendFlag | None, num_threads: int | None = None
) -> tuple["InferenceSession", BackendName]:
    """Load an ONNX model on a backend.

    Args:
        path: The file, for messages.
        data: Its bytes.
        backend: As for `open_detector`.
        num_threads: Threads of one inference. None uses every core, whose threads wait actively
            between two nodes: this is faster and keeps the cores busy.

    Returns:
        The session and its backend, which for `auto` is the first that runs.

    Raises:
        HaustraError: ONNX Runtime does not load the model or does not have the backend, or it does
            not start. There is no fallback to the CPU.
        MissingExtraError: ONNX Runtime is not installed.
    """
    with needs_extra("onnx", needed_for=f"reading the ONNX model {path}"):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_ERRORS
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = wanted_backend(backend)
    names: list[BackendName] = list(PROVIDERS) if wanted == "auto" else [wanted]
    for name in names:
        provider, remedy = PROVIDERS[name]
        if provider not in onnxruntime.get_available_providers():
            continue
        providers = list(dict.fromkeys([provider, CPU_PROVIDER]))
        try:
            session = onnxruntime.InferenceSession(data, options, providers=providers)
        except (
            failures.Fail,
            failures.InvalidArgument,
            failures.InvalidGraph,
            failures.InvalidProtobuf,
            failures.NotImplemented,
        ) as error:
            reason = str(error).strip().splitlines()[0].rsplit(") ", 1)[-1]
            raise HaustraError(
                f"{path} does not load in ONNX Runtime {onnxruntime.__version__} ({reason}); "
                "update onnxruntime, or export the model again with the lowest `--opset`"
            ) from None
        # ONNX Runtime leaves out a provider that does not start, without an error.
        if provider in session.get_providers():
            return session, name
    raise HaustraError(
        f"{option('backend', wanted)} for {path} needs ONNX Runtime's {provider}, which does not "
        f"run here; {remedy}, or use {option('backend', 'cpu')}"
    )


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protobuf message: integers, and bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        elif kind == 2 and (end := varint() + place) <= len(message):
            yield number, message[place:end]
            place = end
        else:
            raise ValueError("it is not a whole protobuf message")


def seal_model(data: bytes) -> bytes:
    """Return a model whose metadata has `NO_SEAL` with its SHA-256 in that place."""
    return data.replace(NO_SEAL, digest_bytes(data).encode(), 1)


def read_model(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read an ONNX model of haustra, and check that it is as `haustra export` wrote it.

    ONNX Runtime does not check what it loads.

    Returns:
        The file's bytes, and the description of the model in it.

    Raises:
        HaustraError: The file is missing, was not written by haustra, is damaged, or has another
            format version.
    """
    if not path.is_file():
        raise HaustraError(
            f"{path} does not exist; expected an ONNX model; make one with `haustra export`"
        )
    data = path.read_bytes()
    try:
        fields = list(_fields(data))
        entries = [dict(_fields(value)) for number, value in fields if number == METADATA_FIELD]
        texts = [entry[2] for entry in entries if entry[1] == METADATA_KEY.encode()]
        value = json.loads(texts[0])
        opsets = [dict(_fields(value)) for number, value in fields if number == OPSET_FIELD]
        of_onnx = next(opset[2] for opset in opsets if not opset.get(1))
        versions = dict(fields)[IR_VERSION_FIELD], of_onnx
    except (ValueError, LookupError, TypeError, StopIteration, RecursionError):
        raise _not_from_haustra(path) from None
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise _not_from_haustra(path)
    found, remedy = value.get("format_version"), "export it again"
    check_version(path, name=FORMAT_NAME, found=found, known=FORMAT_VERSION, remedy=remedy)
    seal = str(value.get("file_sha256")).encode()
    if len(seal) == len(NO_SEAL) and seal_model(data.replace(seal, NO_SEAL, 1)) == data:
        return data, value
    if versions != (written := (value.get("ir_version"), value.get("opset"))):
        raise HaustraError(
            f"{path} has ONNX IR version {versions[0]} and opset {versions[1]}, but `haustra "
            f"export` wrote {written[0]} and {written[1]}: another program changed it; {remedy}"
        )
    raise HaustraError(
        f"{path} is damaged: it does not have the SHA-256 in 'file_sha256'; use another copy of "
        f"it, or {remedy}"
    )


def open_onnx(
    path: Path,
    *,
    kind: Literal["tiny", "big"] | None = None,
    backend: BackendFlag | None = None,
    num_threads: int | None = None,
) -> Detector:
    """Open an ONNX model; arguments and errors are those of `open_detector`.

    Args:
        num_threads: Threads of one inference, as for `open_session`.
    """
    data, metadata = read_model(path)
    session, chosen = open_session(path, data=data, backend=backend, num_threads=num_threads)

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
            crops=trained_on_crops(metadata.get("sources", [])),
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
