"""The export stage on small untrained detectors: what it writes, checks and refuses."""

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from checkpoints import write_lively_checkpoint
from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.metrics import AveragePrecision
from haustra.exporting import quantize, stage
from haustra.exporting.config import ExportConfig
from haustra.exporting.onnx_graph import export_onnx, write_model
from haustra.exporting.parity import SplitAnswers, answer_split
from haustra.exporting.quantize import float_nodes, quantize_detector
from haustra.exporting.stage import export_detector
from haustra.inference.detector import open_detector
from haustra.inference.onnx_detector import open_onnx
from haustra.models.checkpoint import read_checkpoint, write_checkpoint
from haustra.models.detector import ModelKind, SlotDetector
from haustra.models.tensor_file import weights_digest
from haustra.warehouse.dataset import Split, open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import SplitName
from scenes import write_captures, write_warehouse

OPSETS: dict[ModelKind, int] = {"tiny": 18, "big": 21}


def run(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> dict[ModelKind, Path]:
    """A checkpoint of each kind, for reading only."""
    folder = tmp_path_factory.mktemp("weights")
    paths: dict[ModelKind, Path] = {"tiny": folder / "tinydet.bin", "big": folder / "bigdet.bin"}
    for kind, path in paths.items():
        write_lively_checkpoint(path, manifest=manifest, kind=kind)
    return paths


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[ModelKind, Path]
) -> dict[ModelKind, Path]:
    """What `export_onnx` makes of each checkpoint; tracing takes seconds, so only once."""
    folder = tmp_path_factory.mktemp("graphs")
    paths = {}
    for kind, opset in OPSETS.items():
        header, model = read_checkpoint(weights[kind])
        paths[kind] = folder / f"{kind}.onnx"
        export_onnx(model, header=header, path=paths[kind], opset=opset)
    return paths


@pytest.fixture
def tiny(tmp_path: Path, weights: dict[ModelKind, Path]) -> Path:
    """A checkpoint of TinyDet alone in a folder."""
    path = tmp_path / "tinydet.bin"
    shutil.copy(weights["tiny"], path)
    return path


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, graphs: dict[ModelKind, Path]) -> None:
    """Let the stage take the graphs that are there in place of tracing the model again."""

    def copy_graph(model: SlotDetector, *, path: Path, **settings: Any) -> None:
        shutil.copy(graphs[model.config.kind], path)

    monkeypatch.setattr(stage, "export_onnx", copy_graph)


def noise(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_the_exported_graph_answers_like_the_checkpoint_at_every_batch_size(
    weights: dict[ModelKind, Path], graphs: dict[ModelKind, Path], kind: ModelKind
) -> None:
    in_torch, in_onnx = open_detector(weights[kind]), open_onnx(graphs[kind])
    for count in (1, 5):
        expected_boxes, expected_scores = in_torch.predict_slots(noise(count))
        boxes, scores = in_onnx.predict_slots(noise(count))
        assert boxes.dtype == scores.dtype == np.float32
        assert scores.max() > 0.1
        np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
        np.testing.assert_allclose(boxes, expected_boxes, atol=1e-4)
    assert onnx.load(graphs[kind]).opset_import[0].version == OPSETS[kind]


@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_nothing_is_computed_on_pixels_before_the_first_convolution(
    graphs: dict[ModelKind, Path], kind: ModelKind
) -> None:
    operators = [node.op_type for node in onnx.load(graphs[kind]).graph.node]
    assert set(operators[: operators.index("Conv")]) <= {"Transpose", "Cast"}


def test_the_file_is_reproducible_and_says_how_to_use_the_model(
    tiny: Path, graphs: dict[ModelKind, Path]
) -> None:
    result = export_detector(ExportConfig(detector_weights=tiny))
    assert result.path == tiny.with_name("tinydet.onnx")
    content = result.path.read_bytes()
    assert content == graphs["tiny"].read_bytes()
    # No stack traces with paths of the machine.
    assert b"site-packages" not in content
    assert str(Path(stage.__file__).parents[1]).encode() not in content
    session = onnxruntime.InferenceSession(result.path)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["haustra"])
    header, model = read_checkpoint(tiny)
    assert metadata["format"] == "haustra-onnx"
    assert metadata["model"] == json.loads(json.dumps(asdict(header.model)))
    assert metadata["input_size_wh"] == [64, 64]
    assert metadata["opset"] == 18
    assert metadata["precision"] == "float32"
    assert metadata["weights_sha256"] == weights_digest(model.state_dict())
    assert metadata["operating_point"] == {"objectness": 0.3, "iou": 0.5}
    assert metadata["history"] == header.history[-1:]
    assert metadata["preprocessing"]["pad_value"] == 114
    detector = open_detector(result.path)
    assert (detector.caption, detector.input_size_wh) == ("tinydet", (64, 64))
    assert detector.resize_mode == "letterbox"
    assert detector.operating_point == OperatingPoint(objectness=0.3, iou=0.5)
    (images,) = session.get_inputs()
    assert (images.name, images.shape, images.type) == (
        "images",
        ["batch", 64, 64, 3],
        "tensor(uint8)",
    )
    assert [(output.name, output.shape) for output in session.get_outputs()] == [
        ("boxes_xyxy", ["batch", 1, 4]),
        ("scores", ["batch", 1]),
    ]


def test_the_result_compares_the_forms(
    tiny: Path, traced: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "--detector-weights", str(tiny)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == (
        ["form", "MB", "AP50", "AP50-95", "AP50", "lost", "shift", "px", "largest", "ms"]
    )
    assert [line.split()[0] for line in shown[1:3]] == ["PyTorch", "float32"]
    onnx_path = tiny.with_suffix(".onnx")
    assert shown[3:] == [
        "4 val images; milliseconds for one image on one thread",
        f"wrote {onnx_path} (opset 18)",
        f"next: haustra infer --detector-weights {onnx_path} --image IMAGE",
    ]
    assert run(["export", "--detector-weights", str(tiny), "--overwrite", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["path"] == str(onnx_path)
    assert (value["split_name"], value["num_images"], value["opset"]) == ("val", 4, 18)
    torch_form, float_form = value["forms"]
    assert torch_form["difference"] is None
    assert float_form["difference"]["max_box_shift_px"] < 0.01
    assert float_form["num_bytes"] == onnx_path.stat().st_size


def test_infer_eval_and_info_take_either_file(
    tmp_path: Path, manifest: Path, tiny: Path, traced: None, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = export_detector(ExportConfig(detector_weights=tiny)).path
    image = next((manifest.parents[2] / "captures" / "run_000" / "images").iterdir())
    found = []
    for weights in (tiny, exported):
        infer = ["infer", "--image", str(image), "--detector-weights", str(weights)]
        assert (
            run(
                [
                    *infer,
                    "--infer-obj-thresh",
                    "0",
                    "--output-root",
                    str(tmp_path / "out"),
                    "--json",
                ]
            )
            == 0
        )
        found.append(json.loads(capsys.readouterr().out))
    assert [value["detector"] for value in found] == ["tinydet", "tinydet"]
    first, second = (value["images"][0] for value in found)
    np.testing.assert_allclose(first["boxes_px"], second["boxes_px"], atol=1e-2)
    np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-5)
    assert len(first["scores"]) == 1
    measured = []
    for weights in (tiny, exported):
        measure = ["eval", "--manifest", str(manifest), "--detector-weights", str(weights)]
        assert run([*measure, "--report", str(tmp_path / "report"), "--json"]) == 0
        measured.append(json.loads(capsys.readouterr().out))
    for name in ("model", "average_precision", "num_images"):
        assert measured[0][name] == measured[1][name]
    assert run(["info", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{exported}: tinydet, ")
    assert "ONNX in float32, opset 18\n" in shown
    assert run(["info", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "haustra-onnx"


def test_without_validation_images_the_training_images_serve_and_it_is_said(
    tmp_path: Path, tiny: Path, traced: None
) -> None:
    manifest = write_warehouse(tmp_path, split="1,0,0", num_runs=2)
    result = export_detector(ExportConfig(detector_weights=tiny, manifest=manifest))
    assert (result.split_name, result.num_images) == ("train", 8)
    assert result.notes == [f"{manifest} has no validation images: checked on its training images"]


@pytest.mark.parametrize("int8", [False, True])
def test_a_loss_that_cannot_be_measured_is_said_and_null(
    tmp_path: Path, tiny: Path, traced: None, capsys: pytest.CaptureFixture[str], int8: bool
) -> None:
    write_captures(tmp_path / "captures", num_runs=2)
    write_captures(tmp_path / "empty", num_runs=3, frames_per_run=1)
    shutil.move(tmp_path / "empty/run_002", tmp_path / "captures")
    groups = {"train": ["colon_000", "colon_001"], "val": ["colon_002"], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(groups))
    config = ETLConfig(
        captures=tmp_path / "captures",
        output_root=tmp_path / "warehouse",
        target_size="64",
        max_boxes=4,
        split_file=tmp_path / "split.json",
    )
    manifest = str(build_warehouse(config).manifest_path)
    command = ["export", "--detector-weights", str(tiny), "--manifest", manifest, "--overwrite"]
    command += ["--int8"] * int8
    assert run(command) == 0
    shown = capsys.readouterr().out
    why = "AP50 lost: not checked, because none of the 1 val images has a labeled polyp"
    assert why in shown.splitlines()
    assert "0.0000" not in shown.split("float32")[1].split()[3]
    assert run([*command, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["notes"] == [why]
    for form in value["forms"][1:]:
        assert form["ap50"] is form["difference"]["ap50_loss"] is None
        assert form["difference"]["score_shift"] is not None


@pytest.mark.parametrize(
    ("output", "exceeded"),
    [
        ("scores", "boxes by 0.000 px (at most 0.5), scores by 0.010 (at most 0.001)"),
        ("boxes_xyxy", "boxes by 0.646 px (at most 0.5), scores by 0.000 (at most 0.001)"),
    ],
)
def test_a_graph_that_answers_otherwise_fails_and_leaves_no_file(
    tiny: Path,
    graphs: dict[ModelKind, Path],
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    exceeded: str,
) -> None:
    def export_with_an_error(model: SlotDetector, *, path: Path, **settings: Any) -> None:
        proto = onnx.load(graphs["tiny"])
        (last,) = (node for node in proto.graph.node if output in node.output)
        last.output[0] = "right"
        error = onnx.helper.make_tensor("error", onnx.TensorProto.FLOAT, [], [0.0101])
        proto.graph.initializer.append(error)
        proto.graph.node.append(onnx.helper.make_node("Sub", ["right", "error"], [output]))
        description = json.loads(proto.metadata_props[0].value)
        write_model(path, proto=proto, description=description)

    monkeypatch.setattr(stage, "export_onnx", export_with_an_error)
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny))
    rounded = re.sub(r"(0\.\d{3})\d", r"\g<1>", str(caught.value))
    assert rounded == (
        f"the exported model does not answer like the checkpoint on 4 val images: {exceeded}, "
        "AP50 by 0.000 (at most 0.001), AP50-95 by 0.000 (at most 0.001); nothing was written; "
        "try another opset, or other versions of torch and onnxruntime"
    )
    assert [path.name for path in tiny.parent.iterdir()] == [tiny.name]


def test_eight_bits_that_find_less_fail_and_leave_no_file(
    tiny: Path, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ap50s = iter([0.8, 0.8, 0.7912])

    def scripted(*args: Any, **settings: Any) -> SplitAnswers:
        value = next(ap50s)
        precision = AveragePrecision(
            ap50=value,
            ap75=value,
            ap50_95=value,
            ap_small=None,
            ap_medium=None,
            ap_large=None,
            ar_1=None,
            ar_10=None,
            ar_100=None,
        )
        slots = answer_split(*args, **settings).slots
        return SplitAnswers(average_precision=precision, slots=slots)

    monkeypatch.setattr(stage, "answer_split", scripted)
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny, int8=True))
    assert str(caught.value) == (
        "int8=True: 8 bits lose 0.0088 AP50 on 4 val images (at most 0.005); nothing was written; "
        "export without int8"
    )
    assert [path.name for path in tiny.parent.iterdir()] == [tiny.name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_eight_bits_inside_and_float_ends(
    tmp_path: Path,
    weights: dict[ModelKind, Path],
    graphs: dict[ModelKind, Path],
    traced: None,
    kind: ModelKind,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "c.onnx"
    with caplog.at_level(logging.WARNING):
        result = export_detector(ExportConfig(detector_weights=weights[kind], out=out, int8=True))
    assert caplog.records == []
    assert [form.name for form in result.forms] == ["PyTorch", "float32", "int8"]
    assert result.forms[2].num_bytes < 0.4 * result.forms[1].num_bytes
    detector = open_detector(result.path)
    assert detector.caption == f"{kind}det int8"
    scores = detector.predict_slots(noise(3))[1]
    expected = open_detector(weights[kind]).predict_slots(noise(3))[1]
    np.testing.assert_allclose(scores, expected, atol=0.2)
    proto = onnx.load(result.path)
    assert [entry.domain for entry in proto.opset_import] == [""]
    produced = {name: node for node in proto.graph.node for name in node.output}
    weights_as_they_are = {
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and node.input[1] not in produced
    }
    ends = float_nodes(onnx.load(graphs[kind]).graph)
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    assert weights_as_they_are == set(ends) & set(convolutions)
    assert 2 <= len(weights_as_they_are) < len(convolutions) / 2
    # Two products of such a weight and an activation of 8 bits fit into 16 bits.
    whole = [numpy_helper.to_array(each) for each in proto.graph.initializer]
    largest = max(int(np.abs(each.astype(int)).max()) for each in whole if each.dtype == np.int8)
    assert 32 < largest <= 64


def write_small_model(path: Path, *, kernel: int) -> None:
    """Write a graph of four random convolutions with biases; the third is depthwise."""
    rng = np.random.default_rng(0)
    shapes = {"first": (8, 3), "dense": (8, 8), "depthwise": (8, 1), "last": (8, 8)}
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["c"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["c"], ["t"], perm=[0, 3, 1, 2]),
    ]
    for name, reads, writes in zip(
        shapes, ["t", "first", "dense", "depthwise"], [*list(shapes)[:3], "boxes_xyxy"], strict=True
    ):
        group = 8 if name == "depthwise" else 1
        inputs = [reads, f"w_{name}", f"b_{name}"]
        nodes.append(onnx.helper.make_node("Conv", inputs, [writes], name=name, group=group))
    weights = [
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), f"{kind}_{name}")
        for name, shape in shapes.items()
        for kind, size in (("w", (*shape, kernel, kernel)), ("b", shape[:1]))
    ]
    image = onnx.helper.make_tensor_value_info(
        "images", onnx.TensorProto.UINT8, ["batch", 16, 16, 3]
    )
    answer = onnx.helper.make_tensor_value_info("boxes_xyxy", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "small", [image], [answer], weights)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def test_dense_weights_take_7_bits_so_that_no_sum_overflows_and_depthwise_ones_8(
    tmp_path: Path,
) -> None:
    write_small_model(tmp_path / "f", kernel=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    quantize_detector(tmp_path / "f", tmp_path / "q", batches=lambda: [images])
    found = {
        each.name.removeprefix("w_").removesuffix("_quantized"): int(
            np.abs(numpy_helper.to_array(each).astype(int)).max()
        )
        for each in onnx.load(tmp_path / "q").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and each.name.endswith("_quantized")
    }
    assert found == {"dense": 64, "depthwise": 127}


def test_biases_take_back_what_rounded_weights_do_to_the_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_model(tmp_path / "f", kernel=1)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)

    def means(name: str) -> NDArray[np.float64]:
        session = onnxruntime.InferenceSession(tmp_path / name)
        answer = np.asarray(session.run(None, {"images": images})[0])
        return np.asarray(answer.mean(axis=(0, 2, 3), dtype=np.float64))

    quantize_detector(tmp_path / "f", tmp_path / "q", batches=lambda: [images[:8], images[8:]])
    monkeypatch.setattr(quantize, "correct_biases", lambda model, *, batches: None)
    quantize_detector(tmp_path / "f", tmp_path / "plain", batches=lambda: [images])
    corrected, plain = (np.abs(means(name) - means("f")).mean() for name in ("q", "plain"))
    assert corrected < 0.2 * plain, (corrected, plain)


def test_the_ends_are_the_outermost_convolutions_of_every_path() -> None:
    def node(operator: str, reads: list[str], writes: str) -> onnx.NodeProto:
        return onnx.helper.make_node(operator, reads, [writes], name=f"{operator}_{writes}")

    boxes, scores = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("boxes_xyxy", "scores")
    )
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["images"], "a"),
            node("Conv", ["a"], "b"),
            node("Relu", ["b"], "c"),
            node("Conv", ["c"], "d"),
            node("Conv", ["d"], "e"),
            node("Exp", ["e"], "f"),
            node("Slice", ["e"], "g"),
            node("Concat", ["d", "g"], "h"),
            node("Conv", ["h"], "i"),
            node("Conv", ["i"], "j"),
            node("Gather", ["j", "f"], "boxes_xyxy"),
            node("Sigmoid", ["j"], "scores"),
        ],
        "graph",
        [],
        [boxes, scores],
    )
    assert float_nodes(graph) == [
        "Cast_a",
        "Conv_b",
        "Conv_e",
        "Exp_f",
        "Slice_g",
        "Concat_h",
        "Conv_j",
        "Gather_boxes_xyxy",
        "Sigmoid_scores",
    ]


def test_existing_files_stay_unless_told_otherwise(tiny: Path, traced: None) -> None:
    out = tiny.with_suffix(".onnx")
    out.write_bytes(b"mine")
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny))
    assert str(caught.value) == f"{out} exists already; remove it or pass overwrite=True"
    assert out.read_bytes() == b"mine"
    export_detector(ExportConfig(detector_weights=tiny, overwrite=True))
    assert open_onnx(out).caption == "tinydet"


def test_a_warehouse_that_is_gone_or_of_another_size_is_named(
    tmp_path: Path, manifest: Path, tiny: Path, traced: None
) -> None:
    header, model = read_checkpoint(tiny)
    gone = tmp_path / "gone" / "manifest.json"

    def rewrite(**changes: Any) -> None:
        write_checkpoint(tiny, header=replace(header, **changes), state=model.state_dict())

    rewrite(training={"manifest": str(gone)})
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny))
    assert str(caught.value) == (
        f"{tiny} was trained on {gone}, which does not exist; expected manifest with a warehouse "
        "to check the export on"
    )
    assert export_detector(ExportConfig(detector_weights=tiny, manifest=manifest)).num_images
    rewrite(input_size_wh=(96, 96))
    out = tmp_path / "other.onnx"
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny, manifest=manifest, out=out))
    assert str(caught.value) == (
        f"{tiny} takes 96x96 letterbox images, but {manifest} stores 64x64 letterbox ones; "
        "expected a warehouse of the same target_size and resize_mode"
    )


def test_a_warehouse_without_training_images_is_refused(
    tiny: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_empty(manifest_path: Path, *, split: SplitName) -> Split:
        real = open_split(manifest_path, split=split)
        return replace(real, table=real.table.slice(0, 0))

    monkeypatch.setattr(stage, "open_split", open_empty)
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=tiny))
    assert str(caught.value) == (
        f"{manifest} has no training images; expected a warehouse with some"
    )


def test_only_checkpoints_are_exported(tmp_path: Path, graphs: dict[ModelKind, Path]) -> None:
    out = tmp_path / "again.onnx"
    with pytest.raises(HaustraError) as caught:
        export_detector(ExportConfig(detector_weights=graphs["tiny"], out=out))
    assert str(caught.value) == (
        f"{graphs['tiny']} is not a haustra checkpoint; expected a file that `haustra train` wrote"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 17}, "opset=17: expected a whole number from 18 to 21"),
        ({"opset": 22}, "opset=22: expected a whole number from 18 to 21"),
        ({"out": Path("a.bin")}, "out='a.bin': expected a name that ends in .onnx"),
    ],
)
def test_wrong_export_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        ExportConfig(detector_weights=Path("c.bin"), **changes)
    assert str(caught.value) == message


def test_settings_take_text_as_paths() -> None:
    config = ExportConfig(detector_weights="a/c.bin", manifest="m")  # type: ignore[arg-type]
    assert (config.out_path, config.manifest) == (Path("a/c.onnx"), Path("m"))


@pytest.mark.parametrize(
    ("weights", "int8", "name"),
    [
        ("c.bin", True, "c.int8.onnx"),
        ("exp_lr0.001", False, "exp_lr0.001.onnx"),
        ("exp_lr0.002", True, "exp_lr0.002.int8.onnx"),
        ("v1.2.bin", False, "v1.2.onnx"),
    ],
)
def test_the_onnx_file_has_the_full_name_of_the_checkpoint(
    weights: str, int8: bool, name: str
) -> None:
    assert ExportConfig(detector_weights=Path("a") / weights, int8=int8).out_path == Path("a", name)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages_the_extra_is_named(package: str) -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from haustra.cli.main import main\n"
        "main(['export', '--detector-weights', 'c.bin'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"haustra: haustra export needs the package '{package}', which is not installed; "
        "run: pip install 'haustra[export]'\n"
    )
