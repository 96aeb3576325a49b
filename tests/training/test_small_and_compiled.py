"""Batches of one small image, more boxes than cells, and compiling without a compiler."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from haustra.cli.main import main
from haustra.core.errors import HaustraError
from haustra.models.checkpoint import read_checkpoint
from haustra.models.detector import ModelKind, build_model, count_cells, default_config
from haustra.training.config import TrainConfig
from haustra.training.dry_run import dry_run
from haustra.training.loop import train_detector
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from scenes import write_captures

pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")

WarehouseMaker = Callable[..., Path]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> WarehouseMaker:
    folder = tmp_path_factory.mktemp("small")
    write_captures(folder / "captures", num_runs=8, frames_per_run=4, max_polyps=2)

    def make(size: str, *, max_boxes: int = 4) -> Path:
        config = ETLConfig(
            captures=folder / "captures",
            output_root=folder / "warehouse",
            target_size=size,
            max_boxes=max_boxes,
            split="0.5,0.25,0.25",
        )
        return build_warehouse(config).manifest_path

    return make


@pytest.mark.parametrize("model", ["tiny", "big"])
@pytest.mark.parametrize("batch_size", [1, 19])  # of 20 images: the last batch has one
def test_a_batch_of_one_image_of_32x32_trains(
    tmp_path: Path, warehouse: WarehouseMaker, model: ModelKind, batch_size: int
) -> None:
    manifest = warehouse("32")
    counts = json.loads(manifest.read_text())["splits"]["train"]
    assert counts["samples"] == 20
    config = TrainConfig(
        manifest=manifest,
        model=model,
        epochs=2,
        batch_size=batch_size,
        checkpoint_out=tmp_path / "c.bin",
    )
    result = train_detector(config)
    assert all(entry["loss"] > 0 for entry in result.header.history)
    _, trained = read_checkpoint(result.checkpoint)
    norms = [each for each in trained.modules() if isinstance(each, nn.BatchNorm2d)]
    moved = [norm for norm in norms if norm.state_dict()["running_mean"].any()]
    # A step that has more than one value per channel still moves the running statistics.
    assert len(moved) == (len(norms) if batch_size == 19 else 0)
    assert dry_run(TrainConfig(manifest=manifest, model=model, batch_size=1)).num_steps


def test_more_boxes_than_cells_are_refused_before_any_work(
    tmp_path: Path, warehouse: WarehouseMaker
) -> None:
    config = TrainConfig(
        manifest=warehouse("32", max_boxes=64), model="big", checkpoint_out=tmp_path / "c.bin"
    )
    with pytest.raises(HaustraError) as refused:
        train_detector(config)
    assert str(refused.value) == (
        "images of 32x32 have 21 cells for the 64 boxes of BigDet; build a warehouse of larger "
        "images (`haustra etl --target-size`) or of at most 21 boxes (`--max-boxes`)"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backbone", ["plain", "efficientnet-lite0"])
@pytest.mark.parametrize("size_wh", [(32, 32), (64, 96)])
def test_the_cells_are_those_of_the_model(backbone: str, size_wh: tuple[int, int]) -> None:
    config = default_config("big", max_boxes=3, backbone=backbone)  # type: ignore[arg-type]
    with torch.no_grad():
        dense = build_model(config).eval().dense(torch.zeros(1, 3, *size_wh[::-1]))
    assert dense.objectness_logits.shape[1] == count_cells(config, size_wh=size_wh)


def test_compiling_without_a_compiler_is_one_line_before_any_work(
    tmp_path: Path,
    warehouse: WarehouseMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    torch.compiler.reset()
    out = tmp_path / "c.bin"
    flags = ("--compile", "on", "--checkpoint-out", str(out))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--manifest", str(warehouse("64")), *flags])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("haustra: torch.compile fails here (")
    assert last.endswith(
        "); install a C++ compiler such as g++, and for cuda Triton, or use --compile off"
    )
    assert not out.exists()
    assert not out.with_name("c.bin.run").exists()
