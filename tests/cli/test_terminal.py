import pytest

from haustra.cli.terminal import TerminalProgress
from haustra.core.progress import track


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds_each", "lines"),
    [
        (20, ["etl: 33 %, 0.1 images/s, 40 s left", "etl: 67 %, 0.1 images/s, 20 s left"]),
        (300, ["etl: 33 %, 0.0 images/s, 10.0 min left", "etl: 67 %, 0.0 images/s, 5.0 min left"]),
        (9000, ["etl: 33 %, 0.0 images/s, 5.0 h left", "etl: 67 %, 0.0 images/s, 2.5 h left"]),
    ],
)
def test_plain_lines_tell_the_share_the_rate_and_the_time_left(
    seconds: list[float], capsys: pytest.CaptureFixture[str], seconds_each: float, lines: list[str]
) -> None:
    progress = TerminalProgress(to_stderr=False)
    for _ in track("abc", progress=progress, description="etl", total=3, unit="images"):
        seconds[0] += seconds_each
    assert capsys.readouterr().out.splitlines()[:2] == lines
