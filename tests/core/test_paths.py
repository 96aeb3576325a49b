from pathlib import Path

import pytest

from haustra.core.paths import to_path


def test_the_home_folder_is_expanded_at_the_beginning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert to_path("~/a.bin") == to_path(Path("~/a.bin")) == tmp_path / "a.bin"
    assert to_path("~") == tmp_path
    assert [str(to_path(text)) for text in ("a/~", "~no such user/c")] == [
        "a/~",
        "~no such user/c",
    ]
