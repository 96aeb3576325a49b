import pytest

from haustra.core.progress import track


class RecordingBar:
    def __init__(self) -> None:
        self.events: list[str] = []

    def line(self, text: str) -> None:
        self.events.append(text)

    def start(self, description: str, *, total: float) -> None:
        self.events.append(f"start {description} {total}")

    def update(self, completed: float, *, note: str = "") -> None:
        self.events.append(f"update {completed}")

    def stop(self) -> None:
        self.events.append("stop")


def test_a_bar_counts_each_item_after_it_was_used() -> None:
    bar = RecordingBar()
    for item in track("ab", progress=bar, description="letters", total=2):
        bar.line(item)
    assert bar.events == ["start letters 2", "a", "update 1", "b", "update 2", "stop"]


def test_a_bar_shows_the_items_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class NotingBar(RecordingBar):
        def update(self, completed: float, *, note: str = "") -> None:
            notes.append(note)

    times = iter([0.0, 0.01, 0.5, 4.0])
    monkeypatch.setattr("haustra.core.progress.time.monotonic", lambda: next(times))
    list(track("abc", progress=NotingBar(), description="d", total=3, unit="images"))
    assert notes == ["100 images/s", "4.0 images/s", "0.8 images/s"]


def test_the_bar_is_removed_when_the_items_fail() -> None:
    bar = RecordingBar()
    with pytest.raises(ZeroDivisionError):
        list(track((1 // n for n in (1, 0)), progress=bar, description="d", total=2))
    assert bar.events == ["start d 2", "update 1", "stop"]
