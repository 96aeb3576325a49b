"""`haustra info`."""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from haustra.cli.etl import print_splits, print_validation
from haustra.cli.terminal import print_json, print_lines
from haustra.core.errors import HaustraError, MissingExtraError
from haustra.inference.onnx_detector import is_onnx_path, open_session, read_metadata
from haustra.warehouse.format import WarehouseManifest
from haustra.warehouse.manifest import read_manifest, resolve_manifest_path


def info(
    path: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Show what a warehouse manifest, a checkpoint or an ONNX model holds.

    Parameters
    ----------
    path
        A manifest.json, a warehouse folder, a checkpoint, or an .onnx file of `haustra export`.
    as_json
        Print JSON to standard output.
    """
    if not path.exists():
        raise HaustraError(
            f"{path} does not exist; expected a manifest.json, a checkpoint or an ONNX model"
        )
    path = resolve_manifest_path(path)
    if path.suffix == ".json":
        manifest = read_manifest(path)
        if as_json:
            print_json(manifest.model_dump(mode="json"))
        else:
            _print_manifest(path, manifest=manifest)
        return
    value = _read_onnx_info(path) if is_onnx_path(path) else _read_checkpoint_info(path)
    if as_json:
        print_json(value)
    else:
        _print_detector(path, value=value)


def _print_manifest(path: Path, *, manifest: WarehouseManifest) -> None:
    width, height = manifest.target_size_wh
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    print_lines(
        [
            f"{path}: warehouse v{manifest.version}, format {manifest.format_version}",
            (
                f"images {width}x{height} ({manifest.resize_mode}), up to {manifest.max_boxes} "
                f"boxes, "
                f"{len(manifest.shards)} shard(s), {num_bytes / 1e6:.0f} MB, split by "
                f"{manifest.split_method}"
            ),
        ]
    )
    print_splits(manifest)
    print_validation(manifest)
    for source in manifest.sources:
        terms = [source.dataset, source.licence, source.citation]
        if any(terms):
            print_lines([f"source {source.run_id}: " + "; ".join(term for term in terms if term)])


def _read_onnx_info(path: Path) -> dict[str, Any]:
    metadata = read_metadata(open_session(path), path=path)
    return {"onnx": str(path), "kind": f"{metadata['model']['kind']}det", **metadata}


def _read_checkpoint_info(path: Path) -> dict[str, Any]:
    try:
        from haustra.models.backbone import count_parameters
        from haustra.models.checkpoint import header_to_json, read_checkpoint, weights_digest
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", extra="train", needed_for="reading a checkpoint") from None
    header, model = read_checkpoint(path)
    return {
        "checkpoint": str(path),
        "kind": header.kind_name,
        "parameters": count_parameters(model),
        "weights_sha256": weights_digest(model.state_dict()),
        **header_to_json(header),
    }


def _print_detector(path: Path, *, value: dict[str, Any]) -> None:
    width, height = value["input_size_wh"]
    training, history = value["training"], value["history"]
    point = value["operating_point"]
    last = history[-1] if history else {}
    scores = last.get("val", {}).get("average_precision", {})
    print_lines(
        [
            (
                f"{path}: {value['kind']}, {value['parameters']:,} parameters, format "
                f"{value['format_version']}, weights {value['weights_sha256']}"
            ),
            (
                f"input {width}x{height} ({value['resize_mode']}), max_boxes {value['max_boxes']}, "
                f"classes {', '.join(value['class_names'])}"
            ),
            (
                f"trained on warehouse v{value['warehouse_version']}, {last.get('epoch', 0)} "
                f"epochs, "
                f"{last.get('seconds', 0):.0f} s, seed {training['seed']}, {training['precision']}"
            ),
            "operating point: " + ", ".join(f"{name} {at}" for name, at in point.items()),
        ]
    )
    if "opset" in value:
        print_lines([f"ONNX in {value['precision']}, opset {value['opset']}"])
    if scores:
        print_lines([f"validation at the end: {json.dumps(scores)}"])
    for source in value["sources"]:
        terms = [source["dataset"], source["licence"], source["citation"]]
        if any(terms):
            print_lines([f"data {source['run_id']}: " + "; ".join(t for t in terms if t)])
