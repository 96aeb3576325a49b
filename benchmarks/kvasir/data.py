"""Kvasir-SEG for the benchmarks: its run folder and its warehouses, at the published split."""

import sys
from pathlib import Path

from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.core.digests import digest_json
from haustra.core.images import list_images
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

DEFAULT_FOLDER = Path("../shared/data/kvasir-seg")


def require_data(folder: Path) -> None:
    """End the program with exit code 0 without the images, which the repository does not hold."""
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        print(f"skipped: no Kvasir-SEG in {folder} (expected its images/ and masks/)")
        sys.exit(0)


def import_captures(data: Path, *, work: Path) -> Path:
    """Import Kvasir-SEG as `runs/kvasir.sh` does, unless it is there, and return the run folder.

    Args:
        data: Folder with `images/` and `masks/`.
        work: Folder of the benchmark.
    """
    files = [path for name in ("images", "masks") for path in list_images(data / name)]
    content = digest_json([[path.parent.name, path.name, path.stat().st_size] for path in files])
    captures = work / f"captures_{content[:12]}"
    found = sorted(captures.glob("run_*"))
    if found:
        return found[0]
    config = MaskImportConfig(
        output_root=captures,
        dataset="Kvasir-SEG",
        licence="research and education only",
        citation="D. Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MultiMedia Modeling 2020",
    )
    return import_masks(data / "images", data / "masks", config=config).folder


def build_manifest(data: Path, *, work: Path, size: int, split_rule: str = "sha256:5") -> Path:
    """Return the manifest of the warehouse of `size` x `size` images; build it if need be.

    By default the split is the one of all published numbers: 783 training and 215 validation
    images.
    """
    config = ETLConfig(
        captures=import_captures(data, work=work),
        output_root=work / f"tensor_warehouse_{size}",
        target_size=str(size),
        split_rule=split_rule,
    )
    return build_warehouse(config).manifest_path
