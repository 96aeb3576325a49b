"""Memory of a training over a warehouse that is much larger than memory.

    python -m benchmarks.memory --gigabytes 20

Copies one shard until the warehouse has its size, reads a whole epoch of it through each store,
with checks, and trains for a while. Prints the peak of resident memory of each process beside that
of the same work on a tenth of the shards. The warehouse is deleted afterwards.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import build_parser, markdown_table
from haustra.core.digests import digest_file
from haustra.simulator.config import DatagenConfig
from haustra.simulator.generate import generate_runs
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import MANIFEST_NAME, manifest_to_text, read_manifest
from haustra.warehouse.table import TABLE_SCHEMA

READ_AN_EPOCH = """
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.order import epoch_order
from haustra.warehouse.dataset import open_split
from haustra.warehouse.shard_stores import StoreConfig

split = open_split(manifest, split="train", config=StoreConfig(kind=store))
order = epoch_order(split.shard_sizes, seed=0, epoch=0)
for _ in iterate_batches(split, order=order, batch_size=16):
    pass
num_images = len(split)
"""
TRAIN = """
import tempfile
from pathlib import Path

from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector

with tempfile.TemporaryDirectory() as folder:
    config = TrainConfig(
        manifest=Path(manifest), model=model, store=store, time_budget=budget,
        checkpoint_out=Path(folder) / "detector.bin",
    )
    entry = train_detector(config).header.history[-1]
num_images = round(entry["images_per_s"] * entry["seconds"])
"""
REPORT = """
import json, resource
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({"peak_mb": peak_mb, "num_images": num_images}))
"""


def build_base(folder: Path, *, num_frames: int) -> Path:
    """Build a warehouse of one training shard of 384x384 images; return its folder."""
    generate_runs(DatagenConfig(output_root=folder / "captures", frames=num_frames, size=384))
    config = ETLConfig(
        captures=folder / "captures", output_root=folder / "warehouse", split="1,0,0"
    )
    return build_warehouse(config).manifest_path.parent


def repeat_shard(base: Path, folder: Path, *, num_shards: int) -> Path:
    """Write a warehouse whose shards are copies of the base's only one; return its manifest."""
    manifest = read_manifest(base)
    (entry,) = manifest.shards
    (folder / "shards").mkdir(parents=True)
    entries, tables = [], []
    table = pq.read_table(base / manifest.table.file)
    for number in range(num_shards):
        file = f"shards/copy_{number:05d}.safetensors"
        shutil.copyfile(base / entry.file, folder / file)
        entries.append(entry.model_copy(update={"file": file}))
        columns = table.to_pydict() | {
            "sample_id": [f"{number}/{name}" for name in table["sample_id"].to_pylist()],
            "shard": [file] * table.num_rows,
        }
        tables.append(pa.Table.from_pydict(columns, schema=TABLE_SCHEMA))
    table_path = folder / manifest.table.file
    pq.write_table(pa.concat_tables(tables), table_path)
    counts = manifest.splits["train"]
    repeated = counts.model_copy(
        update={"samples": counts.samples * num_shards, "boxes": counts.boxes * num_shards}
    )
    changed = manifest.model_copy(
        update={
            "shards": entries,
            "splits": manifest.splits | {"train": repeated},
            "table": manifest.table.model_copy(update={"sha256": digest_file(table_path)}),
        }
    )
    path = folder / MANIFEST_NAME
    path.write_text(manifest_to_text(changed))
    return path


def measure(code: str, **settings: str) -> tuple[float, int]:
    """Run code in a process of its own; return its peak of resident memory in MB, and images."""
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, code, REPORT])],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(run.stdout.splitlines()[-1])
    return result["peak_mb"], result["num_images"]


def main() -> None:
    """Build the warehouses, measure, and delete them."""
    parser = build_parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the warehouse")
    parser.add_argument("--budget", default="60s", help="time of each training")
    parser.add_argument("--work", type=Path, help="folder on the disk to use")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder = Path(temporary)
        base = build_base(folder / "base", num_frames=256)
        shard_bytes = next((base / "shards").iterdir()).stat().st_size
        num_large = max(10, round(arguments.gigabytes * 1e9 / shard_bytes))
        sizes = {"a tenth": num_large // 10, "all": num_large}
        manifests = {
            name: repeat_shard(base, folder / f"shards_{count}", num_shards=count)
            for name, count in sizes.items()
        }
        print(f"{num_large} shards, {num_large * shard_bytes / 1e9:.1f} GB; peak memory in MB")
        work: list[tuple[str, str, dict[str, str]]] = [
            (f"read an epoch, {store}", READ_AN_EPOCH, {"store": store})
            for store in ("mmap", "stream")
        ]
        work += [
            (
                f"train {model}, {store}",
                TRAIN,
                {"store": store, "model": model, "budget": arguments.budget},
            )
            for model in ("tiny", "big")
            for store in ("mmap", "stream")
        ]
        rows = []
        for name, code, settings in work:
            (tenth_mb, _), (all_mb, num_images) = (
                measure(code, manifest=str(manifests[size]), **settings)
                for size in ("a tenth", "all")
            )
            rows.append((name, f"{tenth_mb:.0f}", f"{all_mb:.0f}", str(num_images)))
        print("\n".join(markdown_table(("work", "a tenth", "all", "images of all"), rows)))


if __name__ == "__main__":
    main()
