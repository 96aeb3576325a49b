"""The seeking player: frames at their own times, and an end that nobody stated."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from haustra.captures.sources import Source, SourceEndedError, SourceFrame
from haustra.view.players import SeekingPlayer
from viewing import picture


class Film(Source):
    """A film that states a number of frames which may be wrong."""

    name, seekable = "film", True

    def __init__(
        self, count: int, *, stated: int | None, times_s: list[float] | None = None
    ) -> None:
        self._count, self.num_frames, self._times_s = count, stated, times_s
        self.frame_rate_hz: float | None = 100.0

    def index(self) -> list[float] | None:
        return self._times_s

    def read(self, number: int) -> SourceFrame:
        if number >= self._count:
            self.num_frames = self._count
            raise SourceEndedError("the film has ended")
        seconds = self._times_s[number] if self._times_s else number / 100
        return SourceFrame(number=number, image_rgb=picture(0.5), seconds=seconds)


@contextmanager
def playing(source: Source) -> Iterator[SeekingPlayer]:
    player = SeekingPlayer(source)
    yield player
    player.close()


def play_to_the_end(player: SeekingPlayer, *, within_s: float = 5.0) -> list[tuple[int, float]]:
    """Return the frames that were shown, with the time since the start."""
    started, shown = time.monotonic(), []
    while player.playing:
        assert time.monotonic() - started < within_s
        if (frame := player.next_frame()) is not None:
            shown.append((frame.number, time.monotonic() - started))
        time.sleep(0.001)
    return shown


@pytest.mark.parametrize("stated", [None, 3, 10, 500])
def test_a_film_plays_to_its_real_end_whatever_it_states(stated: int | None) -> None:
    with playing(Film(10, stated=stated)) as player:
        shown = play_to_the_end(player)
        assert [number for number, _ in shown][-1] == 9
        assert len({number for number, _ in shown}) == len(shown)
        player.play()
        assert play_to_the_end(player)[-1][0] == 9


@pytest.mark.parametrize("stated", [None, 10, 500])
def test_a_seek_after_the_end_shows_the_last_frame(stated: int | None) -> None:
    with playing(Film(10, stated=stated)) as player:
        player.pause()
        player.seek(400)
        frame = player.next_frame()
        assert frame is not None
        assert (frame.number, player.position) == (9, 9)


def test_frames_are_shown_at_their_own_times() -> None:
    times_s = [0.0, 0.05, 0.1, 0.5, 0.55]
    with playing(Film(5, stated=5, times_s=times_s)) as player:
        shown = play_to_the_end(player)
    assert [number for number, _ in shown] == [0, 1, 2, 3, 4]
    assert [seconds for _, seconds in shown] == pytest.approx(times_s, abs=0.04)
