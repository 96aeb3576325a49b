"""`haustra datagen`: seeded colons seen by a moving camera, written as run folders."""

from pathlib import Path
from typing import Any

import numpy as np

from haustra.captures.writer import writing_run
from haustra.core.errors import HaustraError
from haustra.core.images import encode_png
from haustra.core.progress import Progress, SilentProgress
from haustra.simulate.camera import Camera, plan_path
from haustra.simulate.config import DatagenConfig
from haustra.simulate.labels import label_view
from haustra.simulate.render import cast_view, draw_lighting, shade_view
from haustra.simulate.scene import build_scene

SILENT = SilentProgress()


def generate_runs(config: DatagenConfig, *, progress: Progress = SILENT) -> list[Path]:
    """Write simulated run folders and return their paths.

    Run i is `<output_root>/run_sim_<seed + i>` and depends on nothing but its seed and the
    config: on one machine the same call writes the same bytes. Simulated time starts at the Unix
    epoch.

    Args:
        config: what to make.
        progress: shows a bar over the frames of all runs.

    Raises:
        HaustraError: a run folder exists already and may not be replaced, or the output root is
            a file; nothing has been written then.
        MissingExtraError: embreex is not installed.
    """
    seeds = range(config.seed, config.seed + config.runs)
    folders = [config.output_root / f"run_sim_{seed:06d}" for seed in seeds]
    _check_targets(folders, config=config)
    progress.start("datagen", total=config.runs * config.frames)
    try:
        for index, (seed, folder) in enumerate(zip(seeds, folders, strict=True)):
            _generate_run(
                seed, folder=folder, config=config, progress=progress, done=index * config.frames
            )
    finally:
        progress.stop()
    return folders


def _check_targets(folders: list[Path], *, config: DatagenConfig) -> None:
    if config.output_root.exists() and not config.output_root.is_dir():
        raise HaustraError(f"--output-root {config.output_root}: expected a folder, found a file")
    existing = [folder for folder in folders if folder.exists()]
    if existing and not config.overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise HaustraError(
            f"{existing[0]}{more} exists already; pass --overwrite, or another --seed or "
            "--output-root"
        )


def _generate_run(
    seed: int, *, folder: Path, config: DatagenConfig, progress: Progress, done: int
) -> None:
    run_id = f"sim_{seed:06d}"
    scene = build_scene(seed, num_polyps=config.polyps_per_run)
    camera_rng, path_rng, lighting_rng = np.random.default_rng([seed, 1]).spawn(3)
    camera = Camera(size_px=config.size, fov_deg=float(camera_rng.uniform(105, 125)))
    lighting = draw_lighting(lighting_rng)
    poses = plan_path(scene, num_frames=config.frames, rng=path_rng)
    size_wh = (config.size, config.size)
    with writing_run(
        folder,
        run_id=run_id,
        source="simulated",
        group_id=run_id,
        overwrite=config.overwrite,
        seed=seed,
        started_at_unix=0.0,
        frame_rate_hz=config.frame_rate_hz,
        image_size_wh=size_wh,
        camera=_camera_json(camera),
    ) as writer:
        for frame, pose in enumerate(poses):
            view = cast_view(scene, camera=camera, pose=pose)
            noise_rng = np.random.default_rng([seed, 2, frame])
            image = shade_view(scene, view=view, lighting=lighting, rng=noise_rng)
            labels = label_view(
                scene, view=view, run_id=run_id, min_visible_pixels=config.min_visible_pixels
            )
            seconds = frame / config.frame_rate_hz
            writer.add_frame(
                encode_png(image),
                suffix=".png",
                image_size_wh=size_wh,
                labels=labels,
                sim_time=seconds,
                unix_time=seconds,
            )
            progress.update(done + frame + 1, note=run_id)


def _camera_json(camera: Camera) -> dict[str, Any]:
    """Return the intrinsics; pixel i covers [i, i + 1), so the middle is at half the size."""
    return {
        "model": "pinhole",
        "fov_deg": camera.fov_deg,
        "fx_px": camera.focal_px,
        "fy_px": camera.focal_px,
        "cx_px": camera.size_px / 2,
        "cy_px": camera.size_px / 2,
    }
