import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from damages import reading_of_damaged
from haustra.core.errors import HaustraError
from haustra.models.checkpoint import (
    CheckpointHeader,
    check_kind,
    read_checkpoint,
    read_header,
    write_checkpoint,
)
from haustra.models.detector import ModelKind, SlotDetector, build_model, default_config
from haustra.models.tensor_file import weights_digest

GOLDEN = Path(__file__).parents[1] / "golden" / "format_v3"


def write_untrained(path: Path, *, kind: ModelKind = "tiny", seed: int = 0) -> SlotDetector:
    torch.manual_seed(seed)
    model = build_model(default_config(kind, max_boxes=4))
    header = CheckpointHeader(
        model=model.config,
        input_size_wh=(64, 64),
        resize_mode="letterbox",
        max_boxes=4,
        class_names=("polyp",),
        warehouse_version="0123456789abcdef",
        training={"seed": seed, "precision": "float32"},
    )
    write_checkpoint(path, header=header, state=model.state_dict())
    return model


@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_weights_and_header_come_back_exactly(tmp_path: Path, kind: ModelKind) -> None:
    path = tmp_path / "c.bin"
    model = write_untrained(path, kind=kind)
    header, loaded = read_checkpoint(path)
    assert header == read_header(path)
    assert header.model == model.config
    assert header.kind_name == f"{kind}det"
    assert weights_digest(loaded.state_dict()) == weights_digest(model.state_dict())
    assert not loaded.training


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    one = write_untrained(tmp_path / "a.bin", seed=0)
    two = write_untrained(tmp_path / "b.bin", seed=1)
    assert weights_digest(one.state_dict()) != weights_digest(two.state_dict())


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    with pytest.raises(HaustraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} does not exist; expected a checkpoint; make one with `haustra train`"
    )


def test_a_random_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    path.write_bytes(torch.randint(0, 120, (5000,), dtype=torch.uint8).numpy().tobytes())
    with pytest.raises(HaustraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} is not a haustra checkpoint; expected a file that `haustra train` wrote"
    )


def test_safetensors_of_another_program_are_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(HaustraError, match="is not a haustra checkpoint"):
        read_checkpoint(path)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_refused_without_reading_it(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.bin"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": Bomb()}, path)
    with pytest.raises(HaustraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} is a pickle (a PyTorch .pt file?), which haustra never loads, since a pickle can "
        "run code; expected a file that `haustra train` wrote"
    )
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(HaustraError, match="is not a haustra checkpoint"):
        read_checkpoint(path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path)
    header = read_header(path)
    write_checkpoint(path, header=header, state={"extra": torch.zeros(1)})
    with pytest.raises(
        HaustraError, match=re.escape(f"{path} has weights that do not fit")
    ) as caught:
        read_checkpoint(path)
    # Of hundreds of names the first few.
    assert len(str(caught.value)) < len(str(path)) + 300


def test_another_kind_than_wanted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path, kind="big")
    with pytest.raises(HaustraError) as caught:
        check_kind(path, header=read_header(path), wanted="tiny")
    assert str(caught.value) == (
        f"{path} holds bigdet, but model='tiny' was asked for; expected a tinydet checkpoint, or "
        "model='big'"
    )
    check_kind(path, header=read_header(path), wanted="big")
    check_kind(path, header=read_header(path), wanted=None)


def test_a_header_that_does_not_describe_a_detector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path)
    shape = default_config("big", max_boxes=4, backbone="efficientnet-lite0")
    header = replace(read_header(path), model=replace(shape, depths=(1, 2, 3)))
    write_checkpoint(path, header=header, state={})
    with pytest.raises(HaustraError, match=re.escape(f"{path} has a damaged header: ")):
        read_checkpoint(path)


def test_a_hole_of_zeros_in_the_weights_is_found_and_the_header_is_still_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path)
    data = bytearray(path.read_bytes())
    data[-8192:-4096] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(HaustraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} is damaged: its weights do not have the SHA-256 in 'weights_sha256'; use another "
        "copy of it, or train it again"
    )
    assert read_header(path).kind_name == "tinydet"


def test_a_threshold_that_was_changed_in_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    write_untrained(path)
    data = path.read_bytes()
    place = rb"objectness\": 0.3"
    assert data.count(place) == 1
    path.write_bytes(data.replace(place, rb"objectness\": 0.9"))
    for read in (read_header, read_checkpoint):
        with pytest.raises(HaustraError, match="is damaged: its header does not have the SHA-256"):
            read(path)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (2, "use the haustra that wrote it, or train it again"),
        (4, "a newer haustra wrote it, so update haustra"),
        ("x", "use the haustra that wrote it, or train it again"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused_naming_both(
    tmp_path: Path, version: object, remedy: str
) -> None:
    path = tmp_path / "c.bin"
    header = {"format": "haustra-checkpoint", "format_version": version}
    save_file({}, path, metadata={"haustra": json.dumps(header)})
    with pytest.raises(HaustraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} has haustra-checkpoint version {version!r}; this haustra reads version 3; {remedy}"
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_checkpoint_is_refused_in_one_line_or_has_the_same_content(
    tmp_path: Path, seed: int
) -> None:
    original = GOLDEN / "tinydet.bin"

    def read(path: Path) -> tuple[CheckpointHeader, str]:
        header, model = read_checkpoint(path)
        return header, weights_digest(model.state_dict())

    damage, found = reading_of_damaged(original, copy=tmp_path / "c.bin", seed=seed, read=read)
    assert found in (None, read(original)), damage
