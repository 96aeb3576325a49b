"""What the steps of a Kvasir-SEG benchmark share: data, settings, progress lines, processes."""

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.core.digests import digest_json
from haustra.core.images import list_images
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig

LATENCY_SIZES = (256, 384)
SECONDS_BETWEEN_LINES = 60.0
SECONDS_TO_STOP = 20.0

_STARTED = time.monotonic()
_RUNNING: set[subprocess.Popen[bytes]] = set()


class StepError(Exception):
    """A step that did not work, in one line; the comparison goes on without it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the whole comparison is about."""

    work: Path
    """Work folder, absolute."""
    minutes: float
    """Training wall clock of each detector, its validation not counted."""
    size: int
    """Side in pixels of the images that the detectors train on and are scored on."""
    threads: int
    """That each training of haustra's computes on."""
    captures: Path
    """The run folder that the data set was imported to."""
    manifests: Mapping[int, Path]
    """Warehouse manifests by the side of their images."""


def import_captures(data: Path, *, work: Path) -> Path:
    """Import Kvasir-SEG as `runs/kvasir.sh` does, unless it is there, and return the run folder.

    Args:
        data: folder with `images/` and `masks/`.
        work: folder of the benchmark.
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


def build_manifest(data: Path, *, work: Path, size: int) -> Path:
    """Return the manifest of Kvasir-SEG's warehouse at a side in pixels; build it if need be.

    The split is the one of all published numbers: 783 training and 215 validation images.
    """
    config = ETLConfig(
        captures=import_captures(data, work=work),
        output_root=work / f"tensor_warehouse_{size}",
        target_size=str(size),
        split_rule="sha256:5",
    )
    return build_warehouse(config).manifest_path


def say(text: str) -> None:
    """Print a progress line with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes:4d}:{seconds:02d}] {text}", flush=True)


def now_text() -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def minutes_text(minutes: float) -> str:
    """Return minutes as `haustra train --time-budget` takes them."""
    return f"{minutes:g}m"


def _cpu_times() -> tuple[int, int] | None:
    """Return all and idle processor time since the start of the machine, where Linux tells."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    times = [int(field) for field in fields]
    return sum(times), times[3] + times[4]


def busy_share(seconds: float = 2.0) -> float | None:
    """Return the share (0..1) of the machine that others use now, or None where unknown."""
    before = _cpu_times()
    time.sleep(seconds)
    after = _cpu_times()
    if before is None or after is None or after[0] == before[0]:
        return None
    return 1 - (after[1] - before[1]) / (after[0] - before[0])


def _last_line(log: Path) -> str:
    """Return the last line of a log as a terminal would show it: bars that were redrawn count."""
    lines = re.split(r"[\r\n]|\x1b\[K", log.read_text(errors="replace"))
    plain = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in reversed(lines))
    return " ".join(next((line for line in plain if line), "no output").split())


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_running() -> None:
    """End the processes that `run_logged` waits for in other threads."""
    for process in tuple(_RUNNING):
        _stop(process)


def run_logged(
    command: Sequence[str | Path],
    *,
    log: Path,
    what: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a process to its end, its output in `log`, with a progress line every minute.

    Args:
        command: program and arguments.
        log: receives standard output and standard error.
        what: what runs, for the progress lines.
        environment: of the process; this one's by default.

    Raises:
        StepError: it failed; the last line of its log says why.
    """
    say(what)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        _RUNNING.add(process)
        try:
            while process.poll() is None:
                try:
                    process.wait(SECONDS_BETWEEN_LINES)
                except subprocess.TimeoutExpired:
                    say(f"  {what}: {_last_line(log)[:100]}")
        finally:
            if process.poll() is None:
                _stop(process)
            _RUNNING.discard(process)
    if process.returncode:
        raise StepError(f"{what} failed ({process.returncode}): {_last_line(log)}; see {log}")
