import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from damages import reading_of_damaged
from haustra.core.backend_names import BackendFlag
from haustra.core.errors import HaustraError, MissingExtraError
from haustra.inference.detector import open_detector
from haustra.inference.onnx_detector import open_onnx, seal_model

METADATA = {
    "format": "haustra-onnx",
    "format_version": 2,
    "file_sha256": "0" * 64,
    "ir_version": 10,
    "opset": 18,
    "precision": "float32",
    "model": {"kind": "tiny"},
    "input_size_wh": [16, 8],
    "resize_mode": "letterbox",
    "operating_point": {"objectness": 0.3, "iou": 0.5},
    "history": [],
}


def write_onnx(
    path: Path,
    *,
    metadata: dict[str, str] | None = None,
    opset: int = 18,
    ir_version: int = 10,
    **changes: Any,
) -> Path:
    """Write a model that finds a polyp in the same place of every image."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 16, 3])
    boxes = helper.make_tensor_value_info("boxes_xyxy", TensorProto.FLOAT, [1, 1, 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1])
    nodes = [
        helper.make_node("Constant", [], ["flat"], value_floats=[0.25, 0.25, 0.5, 0.75]),
        helper.make_node("Constant", [], ["score"], value_floats=[0.75]),
        helper.make_node("Constant", [], ["box_shape"], value_ints=[1, 1, 4]),
        helper.make_node("Constant", [], ["score_shape"], value_ints=[1, 1]),
        helper.make_node("Reshape", ["flat", "box_shape"], ["boxes_xyxy"]),
        helper.make_node("Reshape", ["score", "score_shape"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "fixed", [images], [boxes, scores])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    if metadata is None:
        versions = {"opset": opset, "ir_version": ir_version}
        metadata = {"haustra": json.dumps(METADATA | versions | changes)}
    helper.set_model_props(model, metadata)
    path.write_bytes(seal_model(model.SerializeToString()))
    return path


def test_boxes_come_back_through_the_letterbox(tmp_path: Path) -> None:
    import numpy as np

    detector = open_detector(write_onnx(tmp_path / "c.onnx"))
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    found = detector.detect(image, objectness=0.3, iou=0.5)
    # 80x80 becomes the middle 8x8 of 16x8: x 4..8 of 16 is 0..4 of 8.
    np.testing.assert_allclose(found.boxes_px, [[0, 20, 40, 60]])
    np.testing.assert_allclose(found.scores, [0.75])
    assert detector.history == []


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "c.ONNX")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from haustra.inference.detector import open_detector\n"
        f"print(open_detector(Path({str(path)!r})).caption)\n"
        "print('LOADED', [n for n in ('torch', 'onnx') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "tinydet\nLOADED []\n"
    assert done.stderr == ""


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.onnx"
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} does not exist; expected an ONNX model; make one with `haustra export`"
    )


@pytest.mark.parametrize("content", [b"", b"random", b"\x08\x0a"])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.onnx"
    path.write_bytes(content)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} is not a haustra ONNX model; expected a file that `haustra export` wrote"
    )


@pytest.mark.parametrize(
    "metadata", [{}, {"haustra": "{"}, {"haustra": "[]"}, {"haustra": '{"format": "x"}'}]
)
def test_onnx_of_another_program_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write_onnx(tmp_path / "c.onnx", metadata=metadata)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} is not a haustra ONNX model; expected a file that `haustra export` wrote"
    )


def test_another_format_version_and_damaged_metadata_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "c.onnx", format_version=1)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} has haustra-onnx version 1; this haustra reads version 2; use the haustra that "
        "wrote it, or export it again"
    )
    write_onnx(path, format_version=3)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} has haustra-onnx version 3; this haustra reads version 2; a newer haustra wrote "
        "it, so update haustra"
    )
    write_onnx(path, input_size_wh=[16])
    with pytest.raises(HaustraError, match="has damaged metadata: ValueError"):
        open_detector(path)


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({"opset": 99}, r"[^)]*opset[^)]*"),
        ({"ir_version": 99}, "Unsupported model IR version: 99, max supported IR version: \\d+"),
    ],
)
def test_a_model_that_is_too_new_for_onnx_runtime_is_said_to_be(
    tmp_path: Path, versions: dict[str, Any], reason: str
) -> None:
    path = write_onnx(tmp_path / "c.onnx", **versions)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert re.fullmatch(
        rf"{path} does not load in ONNX Runtime {onnxruntime.__version__} \({reason}\); update "
        "onnxruntime, or export the model again with the lowest `--opset`",
        str(caught.value),
    )


def test_a_model_whose_versions_another_program_changed_is_refused_naming_them(
    tmp_path: Path,
) -> None:
    path = write_onnx(tmp_path / "c.onnx")
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = 99, 42
    onnx.save(model, path)
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} has ONNX IR version 99 and opset 42, but `haustra export` wrote 10 and 18: "
        "another program changed it; export it again"
    )


def test_changed_weights_are_found_before_onnx_runtime_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx(tmp_path / "c.onnx")
    model = onnx.load(path)
    model.graph.node[1].attribute[0].floats[0] = 0.5
    onnx.save(model, path)
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(HaustraError) as caught:
        open_detector(path)
    assert str(caught.value) == (
        f"{path} is damaged: it does not have the SHA-256 in 'file_sha256'; use another copy of "
        "it, or export it again"
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    original = write_onnx(tmp_path / "c.onnx")
    copy = tmp_path / "d.onnx"
    damage, found = reading_of_damaged(original, copy=copy, seed=seed, read=open_onnx)
    assert found is None or copy.read_bytes() == original.read_bytes(), damage


def test_another_kind_than_wanted_is_refused_also_in_onnx(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "c.onnx", precision="int8")
    with pytest.raises(HaustraError) as caught:
        open_detector(path, kind="big")
    assert str(caught.value) == (
        f"{path} holds tinydet, but model='big' was asked for; expected a bigdet model, or pass "
        "model='tiny'"
    )
    assert open_detector(path, kind="tiny").caption == "tinydet int8"


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx(tmp_path / "c.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as caught:
        open_onnx(path)
    assert str(caught.value) == (
        f"reading the ONNX model {path} needs the package 'onnxruntime', which is not installed; "
        "run: pip install 'haustra[onnx]'"
    )


@pytest.mark.parametrize(
    ("backend", "provider", "remedy"),
    [
        ("cuda", "CUDAExecutionProvider", "run: pip install onnxruntime-gpu"),
        ("mps", "CoreMLExecutionProvider", "it comes with onnxruntime on a Mac"),
        ("wgpu", "WebGpuExecutionProvider", "run: pip install onnxruntime-webgpu"),
    ],
)
def test_a_missing_provider_is_an_error_that_names_the_package(
    backend: BackendFlag,
    provider: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = write_onnx(tmp_path / "c.onnx")
    with pytest.raises(HaustraError) as caught:
        open_detector(path, backend=backend)
    assert str(caught.value) == (
        f"backend={backend!r} for {path} needs ONNX Runtime's {provider}, which does not run here; "
        f"{remedy}, or use backend='cpu'"
    )


def test_a_provider_that_does_not_start_is_no_silent_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, asked = write_onnx(tmp_path / "c.onnx"), onnxruntime.InferenceSession, []

    def without_cuda(model: bytes, options: Any, *, providers: list[str]) -> Any:
        """As ONNX Runtime does it: what does not start is left out."""
        asked.append(providers)
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with pytest.raises(HaustraError, match=r"needs ONNX Runtime's CUDAExecutionProvider"):
        open_detector(path, backend="cuda")
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]
    # auto goes on to the next that runs, and says where it ended.
    assert open_detector(path, backend="auto").backend == (
        "backend cpu: ONNX Runtime's CPUExecutionProvider"
    )


def test_the_environment_chooses_the_provider_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAUSTRA_BACKEND", "wgpu")
    path = write_onnx(tmp_path / "c.onnx")
    with pytest.raises(HaustraError, match=r"^backend='wgpu' for .* WebGpuExecutionProvider"):
        open_detector(path)
    assert open_detector(path, backend="ndarray").caption == "tinydet"
