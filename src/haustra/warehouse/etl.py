"""ETL: from run folders to a content-addressed warehouse.

The plan digests the sources, which gives the version (`plan.py`). If that version exists already,
nothing is done. Otherwise shards of another version or an interrupted ETL are linked (`reuse.py`),
the others are made from decoded, letterboxed frames (`samples.py`, `build.py`), the index is
written last (`index.py`), and the folder is renamed.
"""

from haustra.core.errors import HaustraError, option
from haustra.core.progress import Progress, SilentProgress
from haustra.warehouse.build import ETLResult, build_version
from haustra.warehouse.etl_config import ETLConfig, parse_threshold
from haustra.warehouse.format import MANIFEST_NAME, WarehouseManifest
from haustra.warehouse.manifest import check_warehouse
from haustra.warehouse.plan import plan_warehouse


def _check_thresholds(counts: dict[str, int], *, config: ETLConfig) -> None:
    num_frames = counts["frames"] - counts["empty_left_out"]
    for name, text, total, noun in (
        ("invalid", config.max_invalid, num_frames, "frames"),
        ("missing", config.max_missing, num_frames, "frames"),
        ("empty", config.max_empty, counts["usable"], "usable frames"),
    ):
        limit, is_share = parse_threshold(text, name=f"max_{name}")
        if counts[name] > (limit * total if is_share else limit):
            raise HaustraError(
                f"{counts[name]} of {total} {noun} are {name}, more than "
                f"{option(f'max_{name}', text)}; run `haustra prune`, repair the captures, or "
                "raise the limit"
            )


def build_warehouse(config: ETLConfig, *, progress: Progress | None = None) -> ETLResult:
    """Build the warehouse of a capture root, unless it exists already.

    Raises:
        HaustraError: There is no run or no usable frame, a threshold is exceeded, or a split file
            is wrong.
    """
    progress = progress or SilentProgress()
    plan = plan_warehouse(config, progress=progress)
    folder = config.output_root / f"v{plan.version}"
    manifest_path = folder / MANIFEST_NAME
    notes = plan.assignment.notes

    def check(manifest: WarehouseManifest) -> None:
        _check_thresholds(manifest.validation.total, config=config)

    if manifest_path.exists():
        try:
            manifest = check_warehouse(manifest_path)
        except HaustraError as error:
            notes = (*notes, f"built again, since it was damaged: {error}")
        else:
            check(manifest)
            return ETLResult(manifest_path=manifest_path, manifest=manifest, notes=notes)
    return build_version(plan, folder=folder, check=check, notes=notes, progress=progress)
