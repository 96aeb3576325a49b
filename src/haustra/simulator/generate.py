"""Simulated runs: seeded colons seen by an endoscope, written as run folders.

A run depends only on its seed and the settings. Runs can therefore be made in any order, by any
number of processes, and again after an interruption.
"""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra import __version__
from haustra.captures.schema import RunManifest
from haustra.captures.writer import writing_run
from haustra.core.allocator import keep_freed_memory
from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError, option
from haustra.core.files import read_json, remove_abandoned
from haustra.core.images import encode_png
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress
from haustra.simulator.config import DatagenConfig
from haustra.simulator.gate import wait_for_room
from haustra.simulator.labels import visible_instance
from haustra.simulator.plan import make_tube, plan_run, take_frame, views
from haustra.simulator.render import View

SILENT = SilentProgress()
POLL_S = 0.2
DISTANCE_STEPS_PER_MM = 100
"""The distance image counts hundredths of a millimeter, so it ends at 655.35 mm."""


@dataclass(frozen=True, kw_only=True)
class DatagenResult:
    """Run folders that `generate_runs` made or found."""

    folders: list[Path]  # all requested runs, in the order of their seeds
    num_kept: int  # runs that existed already, made with the same settings


def generate_runs(config: DatagenConfig, *, progress: Progress = SILENT) -> DatagenResult:
    """Write simulated run folders.

    Run i is `<output_root>/run_sim_<seed + i>`. On one machine the same call writes the same
    bytes, with any number of jobs. Existing runs with the same settings are kept. Simulated time
    starts at the Unix epoch.

    Args:
        progress: Receives the number of finished frames of all runs.

    Raises:
        HaustraError: A run folder exists with other settings and `overwrite` is false, the output
            root is a file, the mesh is unusable, or the disk is full. Complete runs remain;
            incomplete ones are removed.
        MissingExtraError: embreex is not installed.
    """
    check_outputs(config)
    recipe = _recipe(config)
    seeds = range(config.seed, config.seed + config.runs)
    folders = {seed: config.output_root / f"run_sim_{seed:06d}" for seed in seeds}
    missing = _missing_runs(folders, config=config, recipe=recipe)
    for folder in folders.values():
        remove_abandoned(folder)
    if config.mesh is not None and missing:
        make_tube(config.seed, config=config)  # reports a bad mesh before any work
    progress.start("datagen", total=len(missing) * config.frames)
    try:
        if config.jobs == 1:
            done = 0
            for seed, folder in missing.items():
                _wait_for_room(config, progress=progress)
                for _ in _generate_run(seed, folder=folder, config=config, recipe=recipe):
                    done += 1
                    progress.update(done, note=folder.name)
        else:
            _generate_in_parallel(missing, config=config, recipe=recipe, progress=progress)
    finally:
        progress.stop()
    return DatagenResult(folders=list(folders.values()), num_kept=len(folders) - len(missing))


def _wait_for_room(config: DatagenConfig, *, progress: Progress) -> None:
    wait_for_room(max_cpu=config.max_cpu, min_free_mem=config.min_free_mem, progress=progress)


def _recipe(config: DatagenConfig) -> dict[str, Any]:
    """Return the settings that a run depends on besides its seed, as its manifest stores them."""
    try:
        mesh_sha256 = digest_file(config.mesh) if config.mesh is not None else None
    except OSError as error:
        raise HaustraError(
            f"{option('mesh', config.mesh)}: {error.strerror}; expected an .obj, .glb, .stl or "
            ".ply file"
        ) from None
    return {
        "haustra_version": __version__,
        "preset": config.preset,
        "frames": config.frames,
        "size_px": config.size,
        "frame_rate_hz": config.frame_rate_hz,
        "polyps_per_run": config.polyps_per_run,
        "polyp_size_mm": list(config.polyp_size_mm),
        "min_visible_pixels": config.min_visible_pixels,
        "without": sorted({*config.without, *(["disturbances"] if config.clean else [])}),
        "truth": config.truth,
        "mesh_sha256": mesh_sha256,
    }


def _missing_runs(
    folders: dict[int, Path], *, config: DatagenConfig, recipe: dict[str, Any]
) -> dict[int, Path]:
    """Return the seeds and folders of the runs that have to be made."""
    missing = {
        seed: folder
        for seed, folder in folders.items()
        if not folder.exists() or _stored_recipe(folder) != recipe
    }
    differing = [folder for folder in missing.values() if folder.exists()]
    if differing and not config.overwrite:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise HaustraError(
            f"{differing[0]}{more} exists already, made with other settings; pass "
            f"{option('overwrite', True)}, or another {option('seed')} or {option('output_root')}"
        )
    return missing


def _stored_recipe(folder: Path) -> Any:
    try:
        manifest = read_json(folder / "run_manifest.json", what="a run manifest")
    except HaustraError:
        return None
    return manifest.get("simulation") if isinstance(manifest, dict) else None


_counter: "Synchronized[int]"
"""Finished frames of all processes; each process receives it when it starts."""


def _start_process(counter: "Synchronized[int]") -> None:
    global _counter
    _counter = counter
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_process(seed: int, *, folder: Path, config: DatagenConfig, recipe: Any) -> None:
    for _ in _generate_run(seed, folder=folder, config=config, recipe=recipe):
        with _counter.get_lock():
            _counter.value += 1


def _generate_in_parallel(
    folders: dict[int, Path], *, config: DatagenConfig, recipe: dict[str, Any], progress: Progress
) -> None:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    waiting = list(folders.items())
    running: set[Future[None]] = set()
    pool = ProcessPoolExecutor(
        config.jobs, mp_context=context, initializer=_start_process, initargs=(counter,)
    )
    try:
        while waiting or running:
            while waiting and len(running) < config.jobs:
                _wait_for_room(config, progress=progress)
                seed, folder = waiting.pop(0)
                running.add(
                    pool.submit(_run_in_process, seed, folder=folder, config=config, recipe=recipe)
                )
            done, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            progress.update(counter.value, note=f"{config.jobs} jobs")
    except BrokenProcessPool:
        raise HaustraError(
            f"{option('jobs', config.jobs)}: a process was killed, perhaps for lack of memory; "
            "complete runs are kept, so try again with fewer jobs"
        ) from None
    except BaseException:
        for process in pool._processes.values():  # their incomplete runs would be removed anyway
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for folder in folders.values():
            remove_abandoned(folder)


def _generate_run(
    seed: int, *, folder: Path, config: DatagenConfig, recipe: dict[str, Any]
) -> Iterator[None]:
    """Write one run; yield after each frame."""
    keep_freed_memory()
    plan = plan_run(seed, config=config)
    size_wh = (config.size, config.size)
    manifest = RunManifest(
        run_id=plan.run_id,
        source="simulated",
        group_id=plan.run_id,
        seed=seed,
        started_at_unix=0.0,
        frame_rate_hz=config.frame_rate_hz,
        image_size_wh=size_wh,
        camera=plan.camera.as_json(),
        simulation=recipe,
    )
    try:
        with writing_run(folder, manifest=manifest, overwrite=config.overwrite) as writer:
            for number, view in enumerate(views(plan)):
                frame = take_frame(plan, view=view, number=number)
                if config.truth:
                    start = writer.folder / "truth" / f"frame_{number:05d}"
                    _write_truth(start, view=view, hidden=frame.hidden)
                writer.add_frame(
                    encode_png(frame.image_rgb),
                    suffix=".png",
                    image_size_wh=size_wh,
                    labels=frame.labels,
                    sim_time=frame.seconds,
                    unix_time=frame.seconds,
                )
                yield
    except OSError as error:
        raise HaustraError(
            f"{folder} could not be written: {error.strerror}; complete runs are kept, so free "
            "space and call again"
        ) from None


def _write_truth(start: Path, *, view: View, hidden: NDArray[np.bool_]) -> None:
    """Write `<start>_instance.png`, `<start>_distance.png` and `<start>_pose.json`.

    Instance pixels are 0 for the wall, n for polyp n and 255 for neither. Distances are 16 bits,
    along each pixel's ray, 0 where it meets nothing. The rows of the pose's `axes` are right,
    down and ahead in the world.
    """
    start.parent.mkdir(exist_ok=True)
    instance = visible_instance(view, hidden=hidden).astype(np.uint8)
    steps = np.clip(view.distance_mm() * DISTANCE_STEPS_PER_MM + 0.5, 0, 65535).astype(np.uint16)
    Path(f"{start}_instance.png").write_bytes(encode_png(instance))
    Path(f"{start}_distance.png").write_bytes(encode_png(steps))
    pose = {"position_mm": view.pose.position_mm.tolist(), "axes": view.pose.axes.tolist()}
    Path(f"{start}_pose.json").write_text(json.dumps(pose, indent=1) + "\n")
