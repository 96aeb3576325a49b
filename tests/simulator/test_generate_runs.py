import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import psutil
import pytest
import trimesh

from haustra import __version__
from haustra.captures.writer import RunWriter
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.simulator.camera import Pose
from haustra.simulator.config import DatagenConfig, Feature
from haustra.simulator.generate import generate_runs
from haustra.simulator.scene import Scene
from haustra.simulator.tube import SECTIONS, build_tube


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


def test_a_seed_always_makes_the_same_bytes(tmp_path: Path) -> None:
    first = generate_runs(small_config(tmp_path / "a", seed=7)).folders
    second = generate_runs(small_config(tmp_path / "b", seed=6, runs=2)).folders
    assert files_of(first[0]) == files_of(second[1])


@pytest.mark.parametrize("preset", ["still", "procedure"])
def test_two_jobs_make_the_same_bytes_as_one(tmp_path: Path, preset: str) -> None:
    settings: dict[str, Any] = {"runs": 3, "preset": preset, "truth": True, "size": 64}
    one = generate_runs(small_config(tmp_path / "one", **settings)).folders
    two = generate_runs(small_config(tmp_path / "two", jobs=2, **settings)).folders
    assert [files_of(run) for run in one] == [files_of(run) for run in two]


def test_runs_of_different_seeds_differ(tmp_path: Path) -> None:
    runs = generate_runs(small_config(tmp_path, runs=2, frames=1)).folders
    pictures = [files_of(run)["images/frame_00000.png"] for run in runs]
    assert pictures[0] != pictures[1]


def test_a_run_folder_contains_manifest_images_and_labels(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, seed=12, frame_rate_hz=5.0)).folders
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
        "simulation": {
            "haustra_version": __version__,
            "preset": "still",
            "frames": 3,
            "size_px": 96,
            "frame_rate_hz": 5.0,
            "polyps_per_run": 4,
            "polyp_size_mm": [2.0, 30.0],
            "min_visible_pixels": 40,
            "without": [],
            "truth": False,
            "mesh_sha256": None,
        },
        "haustra_version": __version__,
        "dataset": None,
        "licence": None,
        "citation": None,
    }
    assert camera["model"] == "fisheye_equidistant"
    assert 120 <= camera["fov_deg"] <= 170
    assert camera["fx_px"] == camera["fy_px"]
    assert camera["fx_px"] == pytest.approx(48 / np.radians(camera["fov_deg"] / 2))
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
    (run,) = generate_runs(small_config(tmp_path, frames=8, min_visible_pixels=5)).folders
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
        assert 2 <= label["size_mm"] <= 30
    centers = {(label["lesion_id"], tuple(label["center_world"])) for label in labels}
    assert len(centers) == len({lesion for lesion, _ in centers})


def test_no_polyps_give_empty_labels(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, polyps_per_run=0)).folders
    for path in (run / "labels").iterdir():
        assert json.loads(path.read_text())["labels"] == []


def write_mesh(path: Path) -> Path:
    tube = build_tube(np.random.default_rng(1), sections=SECTIONS[1:3])
    trimesh.Trimesh(tube.vertices_mm, tube.faces, process=False).export(path)
    return path


def test_a_mesh_replaces_the_simulated_colon(tmp_path: Path) -> None:
    mesh = write_mesh(tmp_path / "colon.stl")
    config = small_config(tmp_path / "captures", mesh=mesh, runs=2, frames=8, preset="procedure")
    first, second = generate_runs(config).folders
    manifest = json.loads((first / "run_manifest.json").read_text())
    assert manifest["simulation"]["mesh_sha256"] == hashlib.sha256(mesh.read_bytes()).hexdigest()
    pictures, others = files_of(first), files_of(second)
    assert pictures["images/frame_00000.png"] != others["images/frame_00000.png"]
    for frame in range(8):
        assert read_image_rgb(first / f"images/frame_{frame:05d}.png").mean() > 20


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mesh_without_a_lumen_is_refused_before_any_run(tmp_path: Path, jobs: int) -> None:
    mesh = tmp_path / "ball.stl"
    trimesh.creation.icosphere(radius=5.0).export(mesh)
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path / "captures", mesh=mesh, runs=2, jobs=jobs))
    assert str(mesh) in str(caught.value)
    assert not (tmp_path / "captures").exists()


def test_a_camera_outside_the_lumen_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside(scene: Scene, *, num_frames: int, **_settings: Any) -> list[Pose]:
        far = scene.tube.centers_mm[0] + 500.0
        return [Pose(position_mm=far, axes=np.eye(3))] * num_frames

    monkeypatch.setattr("haustra.simulator.plan.plan_stills", outside)
    mesh = write_mesh(tmp_path / "colon.stl")
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path / "captures", mesh=mesh))
    assert "the camera leaves the lumen in frame 0, at" in str(caught.value)


def test_an_existing_run_is_refused_before_any_work(tmp_path: Path) -> None:
    taken = tmp_path / "run_sim_000001"
    taken.mkdir()
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path, runs=2))
    assert str(caught.value) == (
        f"{taken} exists already, made with other settings; pass overwrite=True, or "
        "another seed or output_root"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run_sim_000001"]


def test_a_run_made_with_the_same_settings_is_kept(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path)).folders
    stamp = (run / "run_manifest.json").stat().st_mtime_ns
    result = generate_runs(small_config(tmp_path, runs=2))
    assert result.num_kept == 1
    assert (run / "run_manifest.json").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_sim_000000", "run_sim_000001"]


def test_leftovers_of_a_killed_process_are_removed_and_the_runs_completed(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from haustra.captures.writer import RunWriter\n"
        "from haustra.simulator.config import DatagenConfig, Feature\n"
        "from haustra.simulator.generate import generate_runs\n"
        "add_frame = RunWriter.add_frame\n"
        "def dying(self, *args, **settings):\n"
        "    add_frame(self, *args, **settings)\n"
        "    if self.manifest.seed == 1 and self.num_frames == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunWriter.add_frame = dying\n"
        "root = Path(sys.argv[1])\n"
        "generate_runs(DatagenConfig(output_root=root, size=96, frames=3, runs=3))\n"
    )
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    done = subprocess.run([sys.executable, "-c", code, str(broken)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name for path in broken.iterdir())
    assert left[-1] == "run_sim_000000"
    assert left[0].startswith(".run_sim_000001.")
    resumed = generate_runs(small_config(broken, runs=3))
    assert resumed.num_kept == 1
    unbroken = generate_runs(small_config(whole, runs=3))
    assert sorted(path.name for path in broken.iterdir()) == [f"run_sim_00000{i}" for i in range(3)]
    assert [files_of(run) for run in resumed.folders] == [files_of(r) for r in unbroken.folders]


def test_jobs_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "haustra", "datagen", "--runs", "8", "--jobs", "2"]
    parent = subprocess.Popen(
        [*command, "--output-root", str(tmp_path), "--json"], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".run_sim_*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [child for child in psutil.Process(parent.pid).children() if child.is_running()]
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunWriter, *_args: Any, **_settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunWriter, "add_frame", full)
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / 'run_sim_000000'} could not be written: No space left on device; complete "
        "runs are kept, so free space and call again"
    )
    assert list(tmp_path.iterdir()) == []


def test_truth_agrees_with_the_boxes(tmp_path: Path) -> None:
    config = small_config(tmp_path, frames=12, truth=True, runs=2, min_visible_pixels=1)
    num_boxes = 0
    for run in generate_runs(config).folders:
        for frame in range(12):
            name = f"frame_{frame:05d}"
            mask = cv2.imread(str(run / f"truth/{name}_instance.png"), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            labels = json.loads((run / f"labels/{name}.json").read_text())["labels"]
            numbers = {int(value) for value in np.unique(mask)} - {0, 255}
            boxes = {}
            for number in numbers:
                rows, columns = np.nonzero(mask == number)
                bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                boxes[f"{labels[0]['lesion_id'].split('/')[0]}/polyp_{number}"] = bounds
            assert {label["lesion_id"]: label["bbox_px"] for label in labels} == boxes
            num_boxes += len(boxes)
    assert num_boxes > 20


def test_truth_contains_distances_along_rays_and_the_pose(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, frames=2, truth=True)).folders
    steps = cv2.imread(str(run / "truth/frame_00000_distance.png"), cv2.IMREAD_UNCHANGED)
    assert steps is not None
    distance_mm = np.asarray(steps, dtype=np.float64) / 100
    pose = json.loads((run / "truth/frame_00000_pose.json").read_text())
    axes = np.array(pose["axes"])
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert len(pose["position_mm"]) == 3
    assert distance_mm.shape == (96, 96)
    assert 1.5 < np.median(distance_mm[distance_mm > 0]) < 150


@pytest.mark.parametrize("feature", get_args(Feature))
def test_leaving_a_feature_out_changes_the_picture(tmp_path: Path, feature: Feature) -> None:
    settings: dict[str, Any] = {"frames": 6, "seed": 3}
    (full,) = generate_runs(small_config(tmp_path / "full", **settings)).folders
    (less,) = generate_runs(small_config(tmp_path / "less", without=(feature,), **settings)).folders
    pictures, others = files_of(full), files_of(less)
    assert any(
        pictures[f"images/frame_{i:05d}.png"] != others[f"images/frame_{i:05d}.png"]
        for i in range(6)
    )


def test_clean_is_the_same_as_without_disturbances(tmp_path: Path) -> None:
    (clean,) = generate_runs(small_config(tmp_path / "a", clean=True)).folders
    (less,) = generate_runs(small_config(tmp_path / "b", without=("disturbances",))).folders
    assert files_of(clean) == files_of(less)


def test_the_camera_of_a_procedure_goes_in_and_out_again(tmp_path: Path) -> None:
    config = small_config(tmp_path, preset="procedure", frames=80, truth=True, clean=True)
    (run,) = generate_runs(config).folders
    poses = [json.loads(path.read_text()) for path in sorted((run / "truth").glob("*_pose.json"))]
    positions = np.array([pose["position_mm"] for pose in poses])
    far = np.linalg.norm(positions - positions[0], axis=1)
    assert far[20:30].min() > 100  # deep inside after the way in
    assert far[-1] < 60  # and out again


def test_polyps_that_fit_nowhere_are_reported(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(tmp_path, polyp_size_mm=(39.0, 40.0), polyps_per_run=24))
    assert str(caught.value).startswith("polyp_size_mm 39 40: no room on the wall for polyp ")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_replaced_when_asked(tmp_path: Path) -> None:
    (run,) = generate_runs(small_config(tmp_path, frames=2)).folders
    generate_runs(small_config(tmp_path, frames=1, overwrite=True))
    assert "images/frame_00001.png" not in files_of(run)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_an_output_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "captures"
    file.write_text("")
    with pytest.raises(HaustraError) as caught:
        generate_runs(small_config(file))
    assert str(caught.value) == f"output_root={str(file)!r} is a file; expected a folder"


def test_progress_counts_the_frames_of_all_runs(tmp_path: Path) -> None:
    progress = RecordingProgress()
    generate_runs(small_config(tmp_path, runs=2, frames=2), progress=progress)
    assert progress.events == [
        ("datagen", 4),
        ("run_sim_000000", 1),
        ("run_sim_000000", 2),
        ("run_sim_000001", 3),
        ("run_sim_000001", 4),
        ("stop", 0),
    ]
