"""Files that a training leaves beside its checkpoint, and its reports before and while it runs."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from checkpoints import write_lively_checkpoint
from haustra.cli.main import main
from haustra.core.drawing import PREDICTION_RGB, TRUTH_RGB
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.progress import SilentProgress
from haustra.evaluation.evaluation import evaluate_frames
from haustra.models.checkpoint import read_checkpoint, read_header
from haustra.models.losses import DetectionLoss
from haustra.models.tensor_file import weights_digest
from haustra.training.config import TrainConfig
from haustra.training.dry_run import dry_run
from haustra.training.loop import train_detector
from haustra.training.memory import try_largest_step
from haustra.training.prepare import prepare_training
from haustra.training.recipe import read_recipe
from haustra.training.training import Training
from haustra.warehouse.dataset import Batch, open_split, open_warehouse
from haustra.warehouse.format import read_manifest
from scenes import write_warehouse


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"))


def config_for(manifest: Path, folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "manifest": manifest,
        "epochs": 1,
        "batch_size": 4,
        "checkpoint_out": folder / "detector.bin",
    }
    return TrainConfig(**(settings | changes))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def test_the_run_folder_names_settings_data_and_environment(tmp_path: Path, manifest: Path) -> None:
    result = train_detector(config_for(manifest, tmp_path, seed=3))
    folder = tmp_path / "detector.bin.run"
    assert result.run_folder == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "curves.png",
        "environment.json",
        "gallery.png",
        "metrics.jsonl",
    ]
    settings = read(folder / "config.json")
    assert settings["seed"] == 3
    assert settings["max_boxes"] == read_manifest(manifest).max_boxes
    assert settings["precision"] in ("float32", "bfloat16")
    environment = read(folder / "environment.json")
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["num_threads"] == torch.get_num_threads()
    assert environment["warehouse"]["version"] == read_manifest(manifest).version
    assert {source["source"] for source in environment["warehouse"]["sources"]} == {"simulated"}
    assert environment["initial_weights"] == {"source": "random, seed 3", "licence": None}
    assert read_image_rgb(folder / "curves.png").shape[0] > 300


def test_a_validation_writes_pictures_of_its_detections(tmp_path: Path, manifest: Path) -> None:
    write_lively_checkpoint(tmp_path / "lively.bin", manifest=manifest)
    settings = {"init_from": tmp_path / "lively.bin", "lr_start": 2e-5, "fit_fpr": 0.9}
    config = config_for(manifest, tmp_path, **settings)
    train_detector(config)
    gallery = read_image_rgb(tmp_path / "detector.bin.run" / "gallery.png")
    num_tiles = min(12, len(open_warehouse(manifest).split("val")))
    assert gallery.shape == (288 * -(-num_tiles // 4), 288 * 4, 3)
    for rgb in (TRUTH_RGB, PREDICTION_RGB):
        assert (gallery == rgb).all(axis=2).sum() > 500


def test_the_git_state_is_that_of_the_working_folder(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    (tmp_path / "notes").write_text("one")
    git("add", "notes")
    git("commit", "--quiet", "-m", "notes")
    monkeypatch.chdir(tmp_path)
    for has_changes in (False, True):
        train_detector(config_for(manifest, tmp_path / "checkpoints", if_finished="again"))
        state = read(tmp_path / "checkpoints" / "detector.bin.run" / "environment.json")["git"]
        assert state["commit"] == git("rev-parse", "HEAD").strip()
        assert state["has_changes"] is has_changes
        (tmp_path / "notes").write_text("two")


def test_a_checkpoint_that_a_training_began_from_is_named_with_its_licenses(
    tmp_path: Path, manifest: Path
) -> None:
    first = train_detector(config_for(manifest, tmp_path / "first"))
    train_detector(config_for(manifest, tmp_path, init_from=first.checkpoint))
    weights = read(tmp_path / "detector.bin.run" / "environment.json")["initial_weights"]
    assert weights["source"] == str(first.checkpoint)
    assert weights["weights_sha256"] == first.weights_sha256
    assert len(weights["licence"]) == len(weights["trained_on"]) == 8


def test_the_config_of_a_run_repeats_it_and_flags_override_it(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_detector(config_for(manifest, tmp_path, seed=7, augment=False, batch_size=3))
    config = tmp_path / "detector.bin.run" / "config.json"
    run("train", "--config", config, "--checkpoint-out", tmp_path / "again.bin")
    assert weights_of(tmp_path / "again.bin") == first.weights_sha256
    run("train", "--config", config, "--seed", 8, "--checkpoint-out", tmp_path / "other.bin")
    assert weights_of(tmp_path / "other.bin") != first.weights_sha256
    assert read_header(tmp_path / "other.bin").training["batch_size"] == 3


def test_a_recipe_file_decides_what_is_learned_and_a_config_repeats_it(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"averaging": {"max_decay": 0.5}, "matching": {"num_top_cells": 3}}')
    plain = train_detector(config_for(manifest, tmp_path / "plain"))
    settings = ("--manifest", manifest, "--epochs", 1, "--batch-size", 4)
    changed = tmp_path / "changed.bin"
    run("train", *settings, "--recipe", recipe, "--checkpoint-out", changed)
    assert weights_of(changed) != plain.weights_sha256
    stored = read_header(changed).training["recipe"]
    assert stored["averaging"] == {"max_decay": 0.5, "warm_up_steps": 10}
    assert stored["matching"]["num_top_cells"] == 3
    assert read(tmp_path / "changed.bin.run" / "config.json")["recipe"] == stored
    again = tmp_path / "again.bin"
    run(
        "train", "--config", tmp_path / "changed.bin.run" / "config.json", "--checkpoint-out", again
    )
    assert weights_of(again) == weights_of(changed)
    same = config_for(manifest, tmp_path / "python", recipe=read_recipe(recipe))
    assert train_detector(same).weights_sha256 == weights_of(changed)


def test_a_wrong_recipe_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"averaging": {"max_decay": 2}}')
    with pytest.raises(SystemExit) as stop:
        run("train", "--manifest", "m.json", "--recipe", path)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"haustra: {path}: averaging: max_decay=2: expected a number from 0 to 1\n"
    )


def weights_of(path: Path) -> str:
    return weights_digest(read_checkpoint(path)[1].state_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[]",
            "{path}: expected a JSON object of settings, such as the config.json of a run folder",
        ),
        (
            '{"sead": 1}',
            "{path}: 'sead' is not a setting of `haustra train`; expected one of the flags of "
            "`haustra train --help`, with _ for -",
        ),
        (
            '{"config": 1}',
            "{path}: 'config' is not a setting of `haustra train`; expected one of the flags of "
            "`haustra train --help`, with _ for -",
        ),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        run("train", "--config", path)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"haustra: {message.format(path=path)}\n"


def test_the_status_file_reports_the_progress_to_other_programs(
    tmp_path: Path, manifest: Path
) -> None:
    status = tmp_path / "status.json"
    seen: list[dict[str, Any]] = []

    class Watching:
        def line(self, text: str) -> None:
            pass

        def start(self, description: str, *, total: float) -> None:
            pass

        def update(self, completed: float, *, note: str = "") -> None:
            seen.append(read(status) if status.exists() else {})

        def stop(self) -> None:
            pass

    train_detector(
        config_for(manifest, tmp_path, epochs=2, val_every=1, status_file=status),
        progress=Watching(),
    )
    assert seen[0] == {}
    assert seen[1]["state"] == "training"
    assert (seen[1]["epoch"], seen[1]["step"], seen[1]["num_steps"]) == (1, 1, 10)
    assert seen[1]["seconds_left"] > 0
    done = read(status)
    assert (done["state"], done["step"], done["share_done"]) == ("done", 10, 1.0)
    assert done["checkpoint"] == str(tmp_path / "detector.bin")


def test_a_failed_training_is_reported_in_the_status_file(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haustra.models.losses.DetectionLoss.terms", broken_loss)
    with pytest.raises(HaustraError):
        train_detector(config_for(manifest, tmp_path, status_file=tmp_path / "status.json"))
    status = read(tmp_path / "status.json")
    assert status["state"] == "failed"
    assert status["error"].startswith("the loss is nan")


def broken_loss(*args: object, **settings: object) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(float("nan"), requires_grad=True)}


def test_tensorboard_gets_the_numbers_of_each_epoch(tmp_path: Path, manifest: Path) -> None:
    result = train_detector(
        config_for(manifest, tmp_path, epochs=2, val_every=2, tensorboard=tmp_path / "events")
    )
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [
        (entry["step"], pytest.approx(entry["loss"])) for entry in result.header.history
    ]
    assert len(events.Scalars("val/average_precision/ap50")) == 1


def test_a_gradient_that_is_not_finite_names_and_saves_the_batch(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = DetectionLoss.terms

    def exploding_loss(*args: Any, **settings: Any) -> dict[str, torch.Tensor]:
        terms = compute(*args, **settings)
        zero = (terms["loss"] - terms["loss"].detach()) * 0
        return terms | {"loss": terms["loss"].detach() + torch.sqrt(zero)}  # slope: infinity * 0

    monkeypatch.setattr("haustra.models.losses.DetectionLoss.terms", exploding_loss)
    with pytest.raises(HaustraError) as error:
        train_detector(config_for(manifest, tmp_path, batch_size=6, lr_start=0.01))
    bad = read(tmp_path / "detector.bin.run" / "nonfinite_batch.json")
    ids = open_split(manifest, split="train").sample_ids()
    assert len(bad["sample_ids"]) == 6
    assert set(bad["sample_ids"]) <= set(ids)
    assert (bad["not_finite"], bad["epoch"], bad["step"]) == ("gradient", 1, 1)
    assert str(error.value) == (
        f"the gradient is nan at epoch 1, step 1 (batch with {', '.join(bad['sample_ids'][:4])} "
        f"and 2 more; all in {tmp_path}/detector.bin.run/nonfinite_batch.json); lower "
        "lr_start=0.01 or use precision='float32'"
    )


def test_weights_do_not_move_in_a_step_that_is_not_finite(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(manifest, tmp_path, precision="float32", backend="cpu")
    training = Training(prepare_training(config))
    before = [weight.clone() for weight in training.model.parameters()]
    monkeypatch.setattr("haustra.models.losses.DetectionLoss.terms", broken_loss)
    indices = torch.arange(4).numpy()
    batch = training.split.gather(indices)
    with pytest.raises(HaustraError, match=r"^the loss is nan"):
        training.take_step(iter([(indices, batch)]))
    assert all(map(torch.equal, before, training.model.parameters()))
    assert not training.is_whole


def scores_of(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Make the validations of a training come out like this."""
    left = iter(scores)

    def evaluate(*args: Any, **settings: Any) -> Any:
        found = evaluate_frames(*args, **settings)
        ap = replace(found.metrics.average_precision, ap50_95=next(left))
        return replace(found, metrics=replace(found.metrics, average_precision=ap))

    monkeypatch.setattr("haustra.training.loop.evaluate_frames", evaluate)


def test_patience_ends_a_training_and_keeps_the_best_weights(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 9, "val_every": 1, "patience": 2}
    settings |= {"patience_min_delta": 0.01}
    scores_of(monkeypatch, [0.1, 0.3, 0.305, 0.2])
    result = train_detector(config_for(manifest, tmp_path, **settings))
    assert len(result.header.history) == 4
    assert result.validation is not None
    assert result.validation.average_precision.ap50_95 == 0.3
    # The weights of epoch 2 of the same nine epochs.
    scores_of(monkeypatch, [0.1, 0.3, 0.2, 0.2])
    again = train_detector(config_for(manifest, tmp_path / "b", **settings))
    assert again.weights_sha256 == result.weights_sha256 == weights_of(result.checkpoint)
    header = read_header(result.checkpoint)
    assert (header.epoch, len(header.history), header.is_finished) == (2, 4, True)
    scores_of(monkeypatch, [0.1, 0.2, 0.3, 0.2, 0.2])
    later = train_detector(config_for(manifest, tmp_path / "c", **settings))
    assert later.weights_sha256 != result.weights_sha256


def test_the_best_weights_survive_a_moved_checkpoint_and_an_interrupt(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 9, "val_every": 1, "patience": 2}
    scores_of(monkeypatch, [0.1, 0.3, 0.2, 0.2])
    whole = train_detector(config_for(manifest, tmp_path / "whole", **settings))
    config = config_for(manifest, tmp_path, **settings)

    class StopInThirdEpoch(SilentProgress):
        def update(self, completed: float, *, note: str = "") -> None:
            if note.startswith("epoch 3"):
                raise KeyboardInterrupt

    scores_of(monkeypatch, [0.1, 0.3])
    with pytest.raises(KeyboardInterrupt):
        train_detector(config, progress=StopInThirdEpoch())
    config.checkpoint_path.rename(tmp_path / "elsewhere.bin")
    assert not read_header(tmp_path / "elsewhere.bin").is_finished
    scores_of(monkeypatch, [0.2, 0.2])
    result = train_detector(config)
    assert result.weights_sha256 == whole.weights_sha256 == weights_of(config.checkpoint_path)
    assert result.validation == whole.validation


def test_patience_needs_boxes_to_validate_with(tmp_path: Path) -> None:
    manifest = write_warehouse(tmp_path, split="1,0,0")
    with pytest.raises(HaustraError) as error:
        train_detector(config_for(manifest, tmp_path, patience=1))
    assert str(error.value) == (
        f"patience=1: the validation split of {manifest} has no box to measure a gain with; leave "
        "patience out, or build a warehouse with more groups"
    )


def test_accumulated_batches_make_fewer_steps(tmp_path: Path, manifest: Path) -> None:
    results = [
        train_detector(
            config_for(manifest, tmp_path / name, batch_size=size, accumulate=count)
        ).header.history[0]["step"]
        for name, size, count in (("a", 4, 1), ("b", 2, 2), ("c", 3, 3))
    ]
    # 20 images: 5 steps of 4, 5 of two twos, and 7 batches of 3 in 3 steps.
    assert results == [5, 5, 3]


def test_an_accumulated_gradient_is_the_mean_of_its_batches(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"precision": "float32", "backend": "cpu"}
    prepared = prepare_training(
        config_for(manifest, tmp_path, batch_size=4, accumulate=2, **settings)
    )
    groups = [torch.arange(0, 4).numpy(), torch.arange(4, 8).numpy()]
    batches = [(indices, prepared.split.gather(indices)) for indices in groups]
    wanted = []
    for _, batch in batches:
        training = Training(prepared)
        training.backward(batch)
        wanted.append([weight.grad for weight in training.model.parameters()])
    training = Training(prepared)
    monkeypatch.setattr(training.optimizer, "step", lambda _: None)
    assert training.take_step(iter(batches)) is not None
    for weight, first, second in zip(training.model.parameters(), *wanted, strict=True):
        if weight.grad is None:
            assert first is None
            continue
        assert first is not None
        assert second is not None
        # Up to the clipping, which scales all gradients alike.
        mean = (first + second) / 2
        torch.testing.assert_close(
            weight.grad / weight.grad.norm().clamp(min=1e-9),
            mean / mean.norm().clamp(min=1e-9),
            rtol=1e-3,
            atol=1e-4,
        )


def test_a_dry_run_predicts_and_writes_nothing(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(manifest, tmp_path / "new", epochs=3, model="big")
    found = dry_run(config)
    assert found.num_steps == 15
    assert found.training_s == pytest.approx(15 * found.seconds_per_step)
    assert found.peak_memory_bytes > 100e6
    assert found.disk_bytes > 4 * found.num_parameters
    run(
        "train", "--manifest", manifest, "--dry-run", "--checkpoint-out", tmp_path / "new" / "a.bin"
    )
    assert "dry run: nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_dry_run_finds_mistakes_that_would_stop_the_training(
    tmp_path: Path, manifest: Path
) -> None:
    (tmp_path / "detector.bin").write_text("no checkpoint")
    with pytest.raises(HaustraError, match="is not a haustra checkpoint"):
        dry_run(config_for(manifest, tmp_path))


@pytest.mark.parametrize(
    ("largest", "advice"),
    [
        (
            5,
            "batch_size=4 fits here, and with accumulate=4 each step sees as many images as before",
        ),
        (
            0,
            "not even one image fits in what is left; free memory, or build a warehouse of "
            "smaller images with `haustra etl --target-size`",
        ),
    ],
)
def test_out_of_memory_names_a_batch_size_that_fits(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, largest: int, advice: str
) -> None:
    compute = Training.backward

    def backward(training: Training, batch: Batch, *, weight: float = 1.0) -> Any:
        if len(batch.images) > largest:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 1 bytes. Error code 12 (Cannot allocate memory)"
            )
        return compute(training, batch, weight=weight)

    monkeypatch.setattr(Training, "backward", backward)
    config = config_for(manifest, tmp_path, batch_size=16)
    for attempt in (train_detector, dry_run):
        with pytest.raises(HaustraError) as error:
            attempt(config)
        assert str(error.value) == f"out of memory with batch_size=16 at 64x64; {advice}"


def test_another_error_of_pytorch_is_not_a_lack_of_memory(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backward(training: Training, batch: Batch, *, weight: float = 1.0) -> Any:
        raise RuntimeError("The size of tensor a must match the size of tensor b")

    monkeypatch.setattr(Training, "backward", backward)
    with pytest.raises(RuntimeError, match="size of tensor"):
        train_detector(config_for(manifest, tmp_path))


def test_trying_the_largest_step_changes_nothing(tmp_path: Path, manifest: Path) -> None:
    prepared = prepare_training(config_for(manifest, tmp_path))
    training = Training(prepared)
    before = {name: value.clone() for name, value in training.state().tensors.items()}
    try_largest_step(training)
    after = training.state().tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert all(weight.grad is None for weight in training.model.parameters())
