import sys
from types import SimpleNamespace
from typing import Any

import pytest

from haustra.core.progress import SilentProgress, track
from haustra.core.progress_bars import NotebookProgress, TerminalProgress, choose_progress


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
def test_plain_lines_report_the_share_the_rate_and_the_time_left(
    seconds: list[float], capsys: pytest.CaptureFixture[str], seconds_each: float, lines: list[str]
) -> None:
    progress = TerminalProgress(to_stderr=False)
    for _ in track("abc", progress=progress, description="etl", total=3, unit="images"):
        seconds[0] += seconds_each
    assert capsys.readouterr().out.splitlines()[:2] == lines


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend to run in a notebook, and return what its cell shows, state by state."""
    shown: list[str] = []

    class Handle:
        def update(self, content: str) -> None:
            shown.append(content)

    def display(content: str, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(content)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    notebook: Any = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(
        sys.modules,
        "IPython.display",
        SimpleNamespace(HTML=str, display=display),
    )
    return shown


def test_a_notebook_gets_one_output_with_a_bar_and_the_last_lines(outputs: list[str]) -> None:
    progress = choose_progress(None)
    assert isinstance(progress, NotebookProgress)
    progress.start("train", total=4)
    assert '<progress value="0.000" max="1">' in outputs[-1]
    for number in range(20):
        progress.line(f"epoch {number}: a < b")
    progress.update(2)
    progress.line("epoch 20: done")
    assert '<progress value="0.500" max="1">' in outputs[-1]
    assert "epoch 0:" not in outputs[-1]
    assert "epoch 19: a &lt; b\nepoch 20: done" in outputs[-1]
    progress.stop()
    assert "<progress" not in outputs[-1]
    assert "epoch 20: done" in outputs[-1]


def test_progress_is_shown_where_a_person_can_see_it_or_where_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert isinstance(choose_progress(None), SilentProgress)
    assert isinstance(choose_progress(False), SilentProgress)
    assert isinstance(choose_progress(True), TerminalProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(choose_progress(None), TerminalProgress)
    own = SilentProgress()
    assert choose_progress(own) is own
