import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from haustra.cli.terminal import table_lines
from scenes import write_warehouse

COLUMNS = ["split", "images", "AP50", "AP50-95", "duplicates"]
ROWS = [["test", "210", "0.953", "0.700", "0.000"], ["  95% from", "", "0.904", "0.649", ""]]


def shown(width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width or 40))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: width is not None)
    return "".join(f"{line}\n" for line in table_lines(COLUMNS, rows=ROWS))


def test_a_table_that_fits_has_one_line_per_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = (
        "split       images   AP50  AP50-95  duplicates\n"
        "test           210  0.953    0.700       0.000\n"
        "  95% from          0.904    0.649\n"
    )
    assert shown(80, monkeypatch) == expected
    assert shown(None, monkeypatch) == expected  # a pipe has no width


def test_columns_that_do_not_fit_follow_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown(30, monkeypatch) == (
        "split       images   AP50\n"
        "test           210  0.953\n"
        "  95% from          0.904\n"
        "split       AP50-95\n"
        "test          0.700\n"
        "  95% from    0.649\n"
        "split       duplicates\n"
        "test             0.000\n"
        "  95% from\n"
    )
    assert shown(5, monkeypatch).count("test") == 4


def read_part(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program has ended
        return b""


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_shortens_no_number_of_a_command(tmp_path: Path, width: int) -> None:
    manifest = write_warehouse(tmp_path)
    command = [sys.executable, "-m", "haustra", "info", str(manifest)]
    in_pipe = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    terminal, end = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width)}
    with subprocess.Popen(command, stdout=end, env=environment):
        os.close(end)
        text = b"".join(iter(lambda: read_part(terminal), b""))
    os.close(terminal)
    tables = text.decode().splitlines()[2:]
    assert max(map(len, tables)) <= width
    assert set(re.findall(r"\S+", in_pipe)) == set(re.findall(r"\S+", text.decode()))
