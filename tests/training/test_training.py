import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import torch

from haustra.captures.reader import read_runs
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import SilentProgress
from haustra.evaluation.evaluation import Evaluation, evaluate_frames
from haustra.evaluation.frames import SplitFrames
from haustra.exporting.config import ExportConfig
from haustra.exporting.stage import export_detector
from haustra.inference.detector import open_detector
from haustra.models.checkpoint import read_checkpoint, read_header
from haustra.models.efficientnet import EfficientNetLite0
from haustra.models.predict import resolve_cpu_precision
from haustra.models.tensor_file import weights_digest
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.prepare import prepare_training
from haustra.training.recipe import GrowthSettings, Recipe
from haustra.training.state import Position
from haustra.training.training import Training
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import read_manifest
from scenes import write_captures, write_warehouse
from servers import BUCKET, FailingLine, s3_server, upload_folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


def config_for(manifest: Path | str, folder: Path, **changes: object) -> TrainConfig:
    settings = {
        "manifest": manifest,
        "epochs": 1,
        "batch_size": 4,
        "checkpoint_out": folder / "detector.bin",
    }
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Compute on two threads, where `make test` gives its processes one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", ["tiny", "big"])
@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(
                resolve_cpu_precision() == "float32", reason="emulated here, for minutes"
            ),
        ),
    ],
)
def test_the_same_seed_gives_the_same_weight_bytes(
    tmp_path: Path, manifest: Path, model: str, precision: str, two_threads: None
) -> None:
    digests = [
        train_detector(
            config_for(
                manifest,
                tmp_path / name,
                model=model,
                precision=precision,
                epochs=2,
                seed=seed,
            )
        ).weights_sha256
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_checkpoint_holds_what_inference_needs(tmp_path: Path, manifest: Path) -> None:
    config = config_for(manifest, tmp_path, model="big", epochs=3, val_every=2)
    result = train_detector(config)
    header = read_header(result.checkpoint)
    warehouse = open_split(manifest, split="train").manifest
    assert header.model.kind == "big"
    assert header.model.num_slots == header.max_boxes == warehouse.max_boxes
    assert header.input_size_wh == (64, 64)
    assert header.warehouse_version == warehouse.version
    assert header.training["epochs"] == 3
    assert [("val" in entry) for entry in header.history] == [False, True, True]
    lines = result.metrics_path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == header.history
    assert header.history[-1]["loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("model", "least_ap50"), [("tiny", 0.45), ("big", 0.85)])
def test_training_learns_and_shuffled_labels_show_no_leak(
    tmp_path: Path, model: str, least_ap50: float
) -> None:
    manifest = write_warehouse(tmp_path, num_runs=24, frames_per_run=8)
    result = train_detector(
        config_for(manifest, tmp_path, model=model, epochs=30, batch_size=8, val_every=30)
    )
    detector = open_detector(result.checkpoint)
    split = open_split(manifest, split="test")
    honest, control = (
        evaluate_frames(
            SplitFrames(split), detector, point=OperatingPoint(), shuffle_labels_seed=seed
        ).metrics
        for seed in (None, 0)
    )
    assert honest.average_precision.ap50 is not None
    assert control.average_precision.ap50 is not None
    assert honest.average_precision.ap50 >= least_ap50
    assert control.average_precision.ap50 < 0.15
    # Good ranking is not enough: what is found must be said aloud.
    assert (honest.at_threshold.recall or 0) >= 0.5


def test_a_result_prints_what_was_trained(tmp_path: Path, manifest: Path) -> None:
    text = repr(train_detector(config_for(manifest, tmp_path, epochs=2)))
    assert re.fullmatch(
        rf"TrainResult\(tinydet, checkpoint '{tmp_path}/detector.bin', 2 epochs, \d+ s, "
        r"val AP50 0\.\d{3}, AP50-95 0\.\d{3}\)",
        text,
    )


def test_etl_and_inference_feed_the_model_identical_pixels(tmp_path: Path, manifest: Path) -> None:
    detector = open_detector(train_detector(config_for(manifest, tmp_path)).checkpoint)
    captures = manifest.parents[2] / "captures"
    frames = {f.sample_id: f for run in read_runs(captures) for f in run.frames}
    split = open_split(manifest, split="train")
    stored = split.gather(np.arange(len(split))).images
    for sample_id, pixels in zip(split.sample_ids(), stored, strict=True):
        path = frames[sample_id].image_path
        assert path is not None
        image = read_image_rgb(path)
        letterbox = detector.letterbox(image)
        np.testing.assert_array_equal(letterbox.apply(image), pixels)


def test_evaluation_in_training_equals_evaluation_of_the_checkpoint(
    tmp_path: Path, manifest: Path
) -> None:
    result = train_detector(config_for(manifest, tmp_path, epochs=2))
    detector = open_detector(result.checkpoint)
    again = evaluate_frames(SplitFrames(open_split(manifest, split="val")), detector)
    assert again.metrics == result.validation


def test_another_max_boxes_than_the_manifests_is_refused_naming_both(
    tmp_path: Path, manifest: Path
) -> None:
    with pytest.raises(HaustraError) as caught:
        train_detector(config_for(manifest, tmp_path, max_boxes=9))
    assert str(caught.value) == (
        "max_boxes=9 differs from the warehouse's max_boxes 4; leave it out, or build a "
        "warehouse with `haustra etl --max-boxes 9`"
    )


def test_a_training_split_without_a_box_is_refused(tmp_path: Path) -> None:
    write_captures(tmp_path / "captures", frames_per_run=1)  # the first frame of a run is empty
    config = ETLConfig(
        captures=tmp_path / "captures", output_root=tmp_path / "warehouse", target_size="64"
    )
    manifest = build_warehouse(config).manifest_path
    count = len(open_split(manifest, split="train"))
    with pytest.raises(HaustraError) as caught:
        train_detector(config_for(manifest, tmp_path))
    assert str(caught.value) == (
        f"{manifest}: the training split has {count} sample(s) and no box, so there is nothing to "
        "learn; look at what `haustra prune` kept and at the labels that `haustra import` made"
    )


def test_a_checkpoint_of_the_other_kind_is_kept_without_overwrite(
    tmp_path: Path, manifest: Path
) -> None:
    train_detector(config_for(manifest, tmp_path, model="tiny"))
    path = tmp_path / "detector.bin"
    before = path.read_bytes()
    with pytest.raises(HaustraError) as caught:
        train_detector(config_for(manifest, tmp_path, model="big"))
    assert str(caught.value) == (
        f"checkpoint_out='{path}' holds tinydet, not bigdet; choose a new name, or pass "
        "overwrite=True"
    )
    assert path.read_bytes() == before
    train_detector(config_for(manifest, tmp_path, model="big", overwrite=True))
    assert read_header(path).model.kind == "big"


def test_a_file_that_is_not_a_checkpoint_is_kept_without_overwrite(
    tmp_path: Path, manifest: Path
) -> None:
    path = tmp_path / "detector.bin"
    path.write_text("my thesis")
    with pytest.raises(HaustraError) as caught:
        train_detector(config_for(manifest, tmp_path))
    assert str(caught.value) == (
        f"checkpoint_out='{path}' is kept: {path} is not a haustra checkpoint; expected a file "
        "that `haustra train` wrote; choose a new name, or pass overwrite=True"
    )
    assert path.read_text() == "my thesis"


def test_a_damaged_shard_stops_the_training_before_it_begins(
    tmp_path: Path, manifest: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(manifest.parent, copy)
    shard = copy / read_manifest(copy).shards[0].file
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(HaustraError, match="does not have the SHA-256"):
        train_detector(config_for(copy / "manifest.json", tmp_path))
    assert not (tmp_path / "detector.bin").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_loss(*args: object, **settings: object) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setattr("haustra.models.losses.DetectionLoss.terms", broken_loss)
    with pytest.raises(HaustraError, match=r"^the loss is nan at epoch 1, step 1 \(batch with r0"):
        train_detector(config_for(manifest, tmp_path))
    assert not (tmp_path / "detector.bin").exists()


def test_a_time_budget_ends_the_training(tmp_path: Path, manifest: Path) -> None:
    result = train_detector(config_for(manifest, tmp_path, epochs=None, time_budget="2s"))
    assert result.seconds >= 2
    header, _ = read_checkpoint(result.checkpoint)
    assert header.history[-1]["epoch"] >= 1


@pytest.mark.parametrize(
    ("settings", "epoch", "done", "resolution"),
    [
        ({"epochs": 100}, 0, 0.0, 0.504),
        ({"epochs": 100}, 30, 0.3, 0.754),
        ({"epochs": 100}, 60, 0.6, 1.0),
        ({"epochs": 1}, 0, 0.0, 0.917),  # the one epoch is mostly seen at the full size
        ({"time_budget": "10m"}, 0, 0.0, 1.0),  # how many epochs there will be is not known
        ({"time_budget": "10m"}, 1, 0.01, 0.5125),
        ({"time_budget": "10m"}, 1, 0.5, 1.0),
        pytest.param(
            {"epochs": 100, "compile": "on"},
            0,
            0.0,
            1.0,
            marks=pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning"),
        ),
    ],
)
def test_images_grow_with_the_share_done_in_the_middle_of_an_epoch(
    tmp_path: Path,
    manifest: Path,
    settings: dict[str, object],
    epoch: int,
    done: float,
    resolution: float,
) -> None:
    recipe = Recipe(growth=GrowthSettings(side_step_px=1))
    config = config_for(manifest, tmp_path, recipe=recipe, **({"epochs": None} | settings))
    training = Training(prepare_training(config))
    training.position = Position(epoch=epoch, share_at_epoch_start=done)
    augmentation = training.augmentation()
    assert augmentation is not None
    assert augmentation.size_wh == (round(64 * resolution), round(64 * resolution))


def test_validation_does_not_count_against_the_time_budget(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_evaluation(*args: Any, **settings: Any) -> Evaluation:
        time.sleep(1.5)
        return evaluate_frames(*args, **settings)

    monkeypatch.setattr("haustra.training.loop.evaluate_frames", slow_evaluation)
    started = time.monotonic()
    result = train_detector(
        config_for(manifest, tmp_path, epochs=None, time_budget="1s", val_every=1)
    )
    assert time.monotonic() - started > result.seconds + 1.5
    assert result.header.history[-1]["seconds"] == round(result.seconds, 3)


@pytest.mark.parametrize("model", ["tiny", "big"])
def test_a_training_can_begin_from_a_checkpoint(tmp_path: Path, manifest: Path, model: str) -> None:
    first = train_detector(config_for(manifest, tmp_path / "first", model=model))
    begin = config_for(
        manifest,
        tmp_path / "second",
        model=model,
        init_from=first.checkpoint,
        lr_start=1e-9,
        lr_end=1e-9,
        weight_decay=0.0,
    )
    second = train_detector(begin)
    before, after = (
        dict(read_checkpoint(result.checkpoint)[1].named_parameters()) for result in (first, second)
    )
    for name, parameter in after.items():
        torch.testing.assert_close(parameter, before[name], atol=1e-6, rtol=0)
    assert second.header.training["init_from"] == str(first.checkpoint)


def test_a_checkpoint_of_the_other_kind_cannot_begin_a_training(
    tmp_path: Path, manifest: Path
) -> None:
    tiny = train_detector(config_for(manifest, tmp_path / "tiny", model="tiny")).checkpoint
    with pytest.raises(HaustraError) as caught:
        train_detector(config_for(manifest, tmp_path / "big", model="big", init_from=tiny))
    assert str(caught.value) == (
        f"{tiny} holds tinydet, but model='big' was asked for; expected a bigdet checkpoint, or "
        "model='tiny'"
    )


def test_a_pretrained_bigdet_trains_and_is_read_again(tmp_path: Path, manifest: Path) -> None:
    result = train_detector(config_for(manifest, tmp_path, model="big", pretrained=True))
    header, model = read_checkpoint(result.checkpoint)
    assert header.model.backbone == "efficientnet-lite0"
    imagenet = EfficientNetLite0()
    imagenet.load_imagenet_weights()
    ours = model.backbone.state_dict()
    for name, value in imagenet.state_dict().items():
        if name.startswith(("stem", "blocks.0.", "blocks.4.")):
            torch.testing.assert_close(ours[name], value)


def test_a_bigdet_with_fine_cells_trains_and_is_exported(tmp_path: Path, manifest: Path) -> None:
    result = train_detector(config_for(manifest, tmp_path, model="big", finest_stride=4))
    header, model = read_checkpoint(result.checkpoint)
    with torch.inference_mode():
        dense = model.dense(torch.rand(1, 3, 64, 64))
    assert set(dense.cell_sizes.flatten().tolist()) == {4 / 64, 8 / 64, 16 / 64, 32 / 64}
    assert header.model.num_levels == 4
    # The export refuses an ONNX model that answers otherwise.
    exported = export_detector(ExportConfig(detector_weights=result.checkpoint)).path
    assert open_detector(exported).input_size_wh == (64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number of at least 1"),
        ({"batch_size": -2}, "batch_size=-2: expected a whole number of at least 1"),
        ({"max_boxes": 0}, "max_boxes=0: expected a whole number of at least 1"),
        ({"seed": -1}, "seed=-1: expected a whole number from 0 to 4294967295"),
        ({"val_every": 0}, "val_every=0: expected a whole number of at least 1"),
        ({"lr_start": 0.0}, "lr_start=0.0: expected a number above 0 and below 1"),
        ({"lr_end": -1e-3}, "lr_end=-0.001: expected a number above 0 and below 1"),
        ({"negatives": 1.5}, "negatives=1.5: expected a number from 0 to 1"),
        ({"fit_fpr": 0.0}, "fit_fpr=0.0: expected a number above 0 and below 1"),
        ({"iou_weight": -1.0}, "iou_weight=-1.0: expected a finite number of at least 0"),
        (
            {"epochs": None, "time_budget": "0m"},
            "time_budget='0m': expected a time above zero such as 90s, 10m or 1h",
        ),
        (
            {"pretrained": True, "model": "tiny"},
            "pretrained=True with model='tiny': expected model='big', since the pretrained "
            "backbone is larger than all of TinyDet",
        ),
        (
            {"pretrained": True, "model": "big", "init_from": "old.bin"},
            "pretrained=True and init_from='old.bin': expected one of them, since both set the "
            "first weights",
        ),
        *(
            (
                {"model": "big", "finest_stride": 4} | changes,
                "finest_stride=4: expected model='big' without pretrained and init_from, whose "
                "weights have no cells of that size",
            )
            for changes in ({"model": "tiny"}, {"pretrained": True}, {"init_from": "old.bin"})
        ),
        ({"finest_stride": 2}, "finest_stride=2: expected one of 4, 8"),
        (
            {"epochs": 3, "time_budget": "10m"},
            "epochs=3 and time_budget='10m': expected one of them",
        ),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        config_for(tmp_path / "manifest.json", tmp_path, **changes)
    assert str(caught.value) == message


def test_every_store_gives_the_same_weights(tmp_path: Path, manifest: Path) -> None:
    digests = {
        train_detector(
            config_for(manifest, tmp_path / store, store=store, shuffle_window=5)
        ).weights_sha256
        for store in ("memory", "mmap", "stream")
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_training_from_s3_gives_the_weights_of_the_local_warehouse(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    expected = train_detector(config_for(manifest, tmp_path / "local", shuffle_window=5))
    with s3_server() as url:
        upload_folder(url, manifest.parent, prefix="v1")
        line = FailingLine(url, fault="cut", share=0.02, seed=3)
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        s3fs.S3FileSystem.clear_instance_cache()
        streamed = train_detector(
            config_for(
                f"s3://{BUCKET}/v1/manifest.json",
                tmp_path / "streamed",
                store="stream",
                cache_dir=tmp_path / "cache",
                shuffle_window=5,
            )
        )
        line.close()
    assert line.num_faults > 0
    assert streamed.weights_sha256 == expected.weights_sha256


def test_training_stops_at_a_changed_shard_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path)
    first = train_detector(config_for(manifest, tmp_path))
    shard = manifest.parent / read_manifest(manifest).shards[0].file
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 4
    shard.write_bytes(data)
    with pytest.raises(HaustraError, match=f"^{shard} does not have the SHA-256"):
        train_detector(config_for(manifest, tmp_path, if_finished="again"))
    assert weights_digest(read_checkpoint(first.checkpoint)[1].state_dict()) == (
        first.weights_sha256
    )
    train_detector(config_for(manifest, tmp_path, verify=False, if_finished="again"))


def test_each_epoch_reports_its_share_of_data_and_its_stall(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = []
    progress = SilentProgress()
    monkeypatch.setattr(progress, "line", printed.append)
    result = train_detector(config_for(manifest, tmp_path, epochs=2), progress=progress)
    lines = [line for line in printed if line.startswith("epoch ")]
    for entry, line in zip(result.header.history, lines, strict=True):
        assert 0 < entry["data_cpu"] < 1
        assert 0 <= entry["stall"] <= 1
        shares = f"data {entry['data_cpu']:.1%} of CPU time, stall {entry['stall']:.1%}"
        assert shares in line
