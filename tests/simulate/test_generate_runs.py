import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haustra import __version__
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.simulate.config import DatagenConfig
from haustra.simulate.generate import generate_runs


def small_config(output_root: Path, **changes: Any) -> DatagenConfig:
    settings: dict[str, Any] = {"output_root": output_root, "size": 96, "frames": 3, **changes}
    return DatagenConfig(**settings)


def files_of(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


class RecordingProgress:
    def __init__(self) -> None:
        self.events: list[tuple[str, float]] = []

    def line(self, text: str) -> None:
        self.events.append((text, 0))

    def start(self, description: str, *, total: float) -> None:
        self.events.append((description, total))

    def update(self, completed: float, *, note: str = "") -> None:
        self.events.append((note, completed))

    def stop(self) -> None:
        self.events.append(("stop", 0))


def test_a_run_is_the_same_to_the_byte_for_its_seed(tmp_path: Path) -> None:
    first = generate_runs(small_config(tmp_path / "a", seed=7))
    second = generate_runs(small_config(tmp_path / "b", seed=6, runs=2))
    assert files_of(first[0]) == files_of(second[1])


def test_runs_of_different_seeds_differ(tmp_path: Path) -> None:
    runs = generate_runs(small_config(tmp_path, runs=2, frames=1))
    pictures = [files_of(run)["images/frame_00000.png"] for run in runs]
    assert pictures[0] != pictures[1]


def test_a_run_folder_holds_manifest_images_and_labels(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, seed=12, frame_rate_hz=5.0))
    assert run == tmp_path / "run_sim_000012"
    assert list(files_of(run)) == [
        *(f"images/frame_{i:05d}.png" for i in range(3)),
        *(f"labels/frame_{i:05d}.json" for i in range(3)),
        "run_manifest.json",
    ]
    assert (run / "overlays").is_dir()
    manifest = json.loads((run / "run_manifest.json").read_text())
    camera = manifest.pop("camera")
    assert manifest == {
        "schema_version": 1,
        "run_id": "sim_000012",
        "source": "simulated",
        "group_id": "sim_000012",
        "seed": 12,
        "started_at_unix": 0.0,
        "frame_rate_hz": 5.0,
        "num_frames": 3,
        "image_size_wh": [96, 96],
        "haustra_version": __version__,
        "dataset": None,
        "licence": None,
        "citation": None,
    }
    assert camera["model"] == "pinhole"
    assert 105 <= camera["fov_deg"] <= 125
    assert camera["fx_px"] == camera["fy_px"]
    assert camera["fx_px"] == pytest.approx(48 / np.tan(np.radians(camera["fov_deg"] / 2)))
    assert (camera["cx_px"], camera["cy_px"]) == (48, 48)
    for frame in range(3):
        label = json.loads((run / f"labels/frame_{frame:05d}.json").read_text())
        assert label["frame_id"] == frame
        assert label["sim_time"] == frame / 5
        assert label["unix_time"] == frame / 5
        assert label["label_seed"] == 12
        assert label["source"] == "simulated"
        image = read_image_rgb(run / label["image"])
        assert image.shape == (96, 96, 3)
        assert image.std() > 10


def test_labels_name_the_run_and_the_polyp(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, frames=8, min_visible_pixels=5))
    labels = [
        label
        for path in sorted((run / "labels").iterdir())
        for label in json.loads(path.read_text())["labels"]
    ]
    assert labels
    for label in labels:
        assert label["lesion_id"] in {f"sim_000000/polyp_{i}" for i in range(1, 5)}
        assert np.allclose(np.array(label["bbox_norm"]) * 96, label["bbox_px"])
        assert 0 < label["visible_fraction"] <= 1
        assert 3 <= label["size_mm"] <= 20
    centers = {(label["lesion_id"], tuple(label["center_world"])) for label in labels}
    assert len(centers) == len({lesion for lesion, _ in centers})


def test_no_polyps_give_empty_labels(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, polyps_per_run=0))
    for path in (run / "labels").iterdir():
        assert json.loads(path.read_text())["labels"] == []


def test_an_existing_run_is_refused_before_any_work(tmp_path: Path) -> None:
    taken = tmp_path / "run_sim_000001"
    taken.mkdir()
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path, runs=2))
    assert str(caught.value) == (
        f"{taken} exists already; pass --overwrite, or another --seed or --output-root"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run_sim_000001"]


def test_an_existing_run_is_replaced_when_asked(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, frames=2))
    generate_runs(small_config(tmp_path, frames=1, overwrite=True))
    assert "images/frame_00001.png" not in files_of(run)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_an_output_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "captures"
    file.write_text("")
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(file))
    assert str(caught.value) == f"--output-root {file}: expected a folder, found a file"


def test_progress_counts_the_frames_of_all_runs(tmp_path: Path) -> None:
    progress = RecordingProgress()
    generate_runs(small_config(tmp_path, runs=2, frames=2), progress=progress)
    assert progress.events == [
        ("datagen", 4),
        ("sim_000000", 1),
        ("sim_000000", 2),
        ("sim_000001", 3),
        ("sim_000001", 4),
        ("stop", 0),
    ]
