"""`haustra info`."""

import json
from pathlib import Path
from typing import Any

from haustra.cli.etl import split_lines, validation_lines
from haustra.cli.terminal import Json, print_result
from haustra.core.errors import HaustraError, needs_extra
from haustra.core.paths import to_path
from haustra.inference.detector import is_onnx_path
from haustra.inference.onnx_detector import read_model
from haustra.warehouse.format import WarehouseManifest, read_manifest, resolve_manifest_path


def info(path: Path, /, *, as_json: Json = False) -> None:
    """Show the contents of a warehouse manifest, a checkpoint or an ONNX model.

    Args:
        path: A manifest.json, a warehouse folder, a checkpoint, or an .onnx file of
            `haustra export`.
    """
    path = to_path(path)
    if not path.exists():
        raise HaustraError(
            f"{path} does not exist; expected a manifest.json, a checkpoint or an ONNX model"
        )
    path = resolve_manifest_path(path)
    if path.suffix == ".json":
        manifest = read_manifest(path)
        lines = _manifest_lines(path, manifest=manifest)
        print_result(manifest.model_dump(mode="json"), *lines, as_json=as_json)
        return
    value = _read_onnx_info(path) if is_onnx_path(path) else _read_checkpoint_info(path)
    print_result(value, *_detector_lines(path, value=value), as_json=as_json)


def _terms_lines(sources: list[dict[str, Any]], *, noun: str) -> list[str]:
    """Return a line with dataset, license and citation for each source that has any."""
    lines = []
    for source in sources:
        terms = [source[name] for name in ("dataset", "licence", "citation") if source[name]]
        lines += [f"{noun} {source['run_id']}: " + "; ".join(terms)] if terms else []
    return lines


def _manifest_lines(path: Path, *, manifest: WarehouseManifest) -> list[str]:
    width, height = manifest.target_size_wh
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    sources = [source.model_dump() for source in manifest.sources]
    return [
        f"{path}: warehouse v{manifest.version}, format {manifest.format_version}",
        f"images {width}x{height} ({manifest.resize_mode}), up to {manifest.max_boxes} boxes, "
        f"{len(manifest.shards)} shard(s), {num_bytes / 1e6:.0f} MB, split by "
        f"{manifest.split_method}",
        *split_lines(manifest),
        *validation_lines(manifest),
        *_terms_lines(sources, noun="source"),
    ]


def _read_onnx_info(path: Path) -> dict[str, Any]:
    _, metadata = read_model(path)
    return {"onnx": str(path), "kind": f"{metadata['model']['kind']}det", **metadata}


def _read_checkpoint_info(path: Path) -> dict[str, Any]:
    with needs_extra("train", needed_for="reading a checkpoint"):
        from haustra.models.backbone import count_parameters
        from haustra.models.checkpoint import FORMAT, header_to_json, read_checkpoint
    header, model = read_checkpoint(path)
    return {
        "checkpoint": str(path),
        "kind": header.kind_name,
        "parameters": count_parameters(model),
        "format": FORMAT.name,
        "format_version": FORMAT.version,
        **header_to_json(header),
    }


def _detector_lines(path: Path, *, value: dict[str, Any]) -> list[str]:
    width, height = value["input_size_wh"]
    training, history = value["training"], value["history"]
    last = history[-1] if history else {}
    point = ", ".join(f"{name} {at}" for name, at in value["operating_point"].items())
    lines = [
        f"{path}: {value['kind']}, {value['parameters']:,} parameters, format "
        f"{value['format_version']}, weights {value['weights_sha256']}",
        f"input {width}x{height} ({value['resize_mode']}), max_boxes {value['max_boxes']}, classes "
        f"{', '.join(value['class_names'])}",
        f"trained on warehouse v{value['warehouse_version']}, {last.get('epoch', 0)} epochs, "
        f"{last.get('seconds', 0):.0f} s, seed {training['seed']}, {training['precision']}",
        f"operating point: {point}",
    ]
    if "opset" in value:
        lines.append(f"ONNX in {value['precision']}, opset {value['opset']}")
    scores = last.get("val", {}).get("average_precision", {})
    if scores:
        lines.append(f"validation at the end: {json.dumps(scores)}")
    return [*lines, *_terms_lines(value["sources"], noun="data")]
