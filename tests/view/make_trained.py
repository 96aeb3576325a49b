"""Make tests/view/tinydet_sim.bin, the trained detector that the tests of the page use.

    python tests/view/make_trained.py

Simulates 80 colons, trains for some minutes on two CPU cores, and prints the metrics on colons that
were not used for training. The seeds begin at 500, since the tests use the lower ones. `haustra`
must be on the PATH.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parent / "tinydet_sim.bin"
SIZE_PX = 192
STILLS = ("--preset", "still", "--runs", "60", "--frames", "16", "--seed", "500")
PROCEDURES = ("--preset", "procedure", "--runs", "20", "--frames", "60", "--seed", "600")


def run(*arguments: str | Path) -> None:
    """Run `haustra`, and exit if it fails."""
    done = subprocess.run(["haustra", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Simulate, train and write the checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in (STILLS, PROCEDURES):
            run("datagen", *kind, "--size", str(SIZE_PX), "--output-root", folder / "captures")
        etl = ("--target-size", str(SIZE_PX), "--split", "0.9,0.1,0", "--empty-ratio", "0.3")
        run("etl", "--captures", folder / "captures", "--output-root", folder / "w", *etl)
        [manifest] = (folder / "w").glob("v*/manifest.json")
        weights = folder / TARGET.name
        run("train", "--manifest", manifest, "--epochs", "12", "--checkpoint-out", weights)
        shutil.copyfile(weights, TARGET)


if __name__ == "__main__":
    main()
