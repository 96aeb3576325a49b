"""Long benchmarks in steps: progress lines, programs with a log, environments of their own."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

SECONDS_BETWEEN_LINES = 60.0
SECONDS_TO_STOP = 20.0

_STARTED = time.monotonic()
_RUNNING: set[subprocess.Popen[bytes]] = set()


class StepError(Exception):
    """A step that failed, in one line; the benchmark goes on without it."""


def say(text: str) -> None:
    """Print a progress line with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes:4d}:{seconds:02d}] {text}", flush=True)


def now_text() -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _cpu_times() -> tuple[int, int] | None:
    """Return all and idle CPU time since the start of the machine, on Linux."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    times = [int(field) for field in fields]
    return sum(times), times[3] + times[4]


def busy_share(seconds: float = 2.0) -> float | None:
    """Return the share (0..1) of the machine that other programs use, or None where unknown."""
    before = _cpu_times()
    time.sleep(seconds)
    after = _cpu_times()
    if before is None or after is None or after[0] == before[0]:
        return None
    return 1 - (after[1] - before[1]) / (after[0] - before[0])


def _last_line(log: Path) -> str:
    """Return the last line of a log as a terminal shows it, redrawn progress bars included."""
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
        command: Program and arguments.
        log: File for standard output and standard error.
        what: Name of the step, for the progress lines.
        environment: Environment variables; those of this process by default.

    Raises:
        StepError: It failed; the message ends with the last line of the log.
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


def make_environment(folder: Path, *, packages: Sequence[str]) -> Path:
    """Make a virtual environment with some packages, unless it is there; return its Python.

    Raises:
        StepError: It could not be made.
    """
    python, ready, log = folder / "bin" / "python", folder / "ready", folder.with_suffix(".log")
    if not ready.exists():
        command: list[str | Path] = [sys.executable, "-m", "venv", "--clear", folder]
        run_logged(command, log=log, what="make an environment")
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", *packages]
        run_logged(command, log=log, what="install " + " ".join(packages))
        ready.touch()
    return python
