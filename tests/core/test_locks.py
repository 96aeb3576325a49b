import errno
import multiprocessing
import os
import re
import signal
import socket
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from haustra.core import locks
from haustra.core.locks import LockedError, locked_folder


def hold(folder: Path, pipe: Connection) -> None:
    with locked_folder(folder):
        pipe.send("held")
        pipe.recv()


def start_holder(folder: Path) -> tuple[multiprocessing.Process, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(folder, theirs))
    process.start()
    assert ours.recv() == "held"
    return process, ours  # type: ignore[return-value]


def test_the_other_process_is_named_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "a.bin.run"
    process, pipe = start_holder(folder)
    with pytest.raises(LockedError) as caught, locked_folder(folder):
        pass
    name = f"process {process.pid} on host {re.escape(socket.gethostname())}"
    assert re.fullmatch(rf"{name}, since \d{{4}}-\d\d-\d\d [\d:]{{8}} UTC", caught.value.holder)
    pipe.send("end")
    process.join()
    with locked_folder(folder):
        pass
    assert not folder.exists(), "an empty folder was created for the lock alone"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process, _ = start_holder(tmp_path)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with locked_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert not tmp_path.exists()


def test_two_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    name = f"^process {os.getpid()} on host "
    with locked_folder(tmp_path), pytest.raises(LockedError, match=name), locked_folder(tmp_path):
        pass


def test_an_unreadable_lock_file_still_locks(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\0")
        with pytest.raises(LockedError, match=r"^another process$"), locked_folder(tmp_path):
            pass


def test_a_lock_is_held_by_one_at_a_time_while_others_come_and_go(tmp_path: Path) -> None:
    folder, inside, worst, taken = tmp_path / "run", [0], [0], [0]

    def work() -> None:
        for _ in range(300):
            try:
                with locked_folder(folder):
                    inside[0] += 1
                    worst[0] = max(worst[0], inside[0])
                    taken[0] += 1
                    inside[0] -= 1
            except LockedError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst[0] == 1
    assert taken[0] > 0


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_try_lock", fail)
    with locked_folder(tmp_path) as why_not:
        assert why_not == "No locks available"
