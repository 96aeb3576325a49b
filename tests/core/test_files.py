import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from builders import files_in
from haustra.core.errors import HaustraError
from haustra.core.files import (
    building_folder,
    link_or_copy,
    read_json,
    resolve_inside,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


def fail(*arguments: Any, **named: Any) -> NoReturn:
    raise OSError("the disk is full")


def build_and_fail(path: Path, *, error: BaseException, overwrite: bool = False) -> None:
    with building_folder(path, overwrite=overwrite) as building:
        (building / "new.txt").write_text("new")
        raise error


def read_error(path: Path) -> str:
    with pytest.raises(HaustraError) as caught:
        read_json(path, what="a recipe")
    return str(caught.value)


def test_a_file_is_written_with_its_folders_and_nothing_else(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a/b/c.bin", data=b"\x00\x01")
    write_text_atomic(tmp_path / "d.txt", text="Größe")
    assert files_in(tmp_path) == {"a/b/c.bin": b"\x00\x01", "d.txt": "Größe".encode()}


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a long old text")
    write_text_atomic(path, text="new")
    assert files_in(tmp_path) == {"a.txt": b"new"}


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_bytes_atomic(path, data=b"new")
    assert files_in(tmp_path) == {"a.txt": b"old"}


def test_the_bytes_are_on_disk_before_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    named_at_sync: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: named_at_sync.append(path.exists()))
    write_bytes_atomic(path, data=b"new")
    assert named_at_sync == [False, True]  # the file, then its folder


def test_json_is_written_indented_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, value={"b": [1.5, None], "a": "x"})
    assert path.read_text() == '{\n  "b": [\n    1.5,\n    null\n  ],\n  "a": "x"\n}\n'
    assert read_json(path, what="a recipe") == {"b": [1.5, None], "a": "x"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_a_standard_spelling_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "a.json", value={"a": value})
    assert files_in(tmp_path) == {}


def test_an_unreadable_json_file_is_reported_with_its_expected_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_error(path) == f"{path} does not exist; expected a recipe"
    path.write_text('{"a": 1,\n"b" 2}')
    reason = "(line 2: Expecting ':' delimiter)"
    assert read_error(path) == f"{path} is not JSON {reason}; expected a recipe"
    path.write_bytes(b"")
    assert read_error(path) == f"{path} is not JSON (line 1: Expecting value); expected a recipe"
    path.write_bytes(b'{"a": "\xff"}')
    assert read_error(path).startswith(f"{path} is not usable JSON ('utf-8' codec")
    path.unlink()
    path.mkdir()
    assert read_error(path).startswith(f"{path} cannot be read as a recipe: [Errno 21]")


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 200_000], ids=["a long number", "deep lists"])
def test_json_that_python_cannot_parse_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    message = read_error(path)
    assert message.startswith(f"{path} is not usable JSON (")
    assert message.endswith("); expected a recipe")


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep/run"
    with building_folder(target) as building:
        (building / "a.txt").write_text("a")
        assert not target.exists()
        assert building.parent == target.parent
    assert files_in(tmp_path) == {"deep/run/a.txt": b"a"}
    assert [path.name for path in target.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_an_error_inside_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        build_and_fail(tmp_path / "run", error=error)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as caught, building_folder(tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path} exists already; remove it or pass overwrite=True"
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []


def test_overwriting_replaces_the_folder_completely(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with building_folder(target, overwrite=True) as building:
        (building / "new.txt").write_text("new")
        assert files_in(target) == {"old.txt": b"old"}
    assert files_in(tmp_path) == {"run/new.txt": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_error_while_overwriting_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="stop"):
        build_and_fail(target, error=ValueError("stop"), overwrite=True)
    assert files_in(tmp_path) == {"run/old.txt": b"old"}


def test_overwriting_through_a_link_replaces_its_target(tmp_path: Path) -> None:
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "disk/run/old.txt").write_text("old")
    link = tmp_path / "run"
    link.symlink_to("disk/run")
    with building_folder(link, overwrite=True) as building:
        (building / "new.txt").write_text("new")
    assert link.is_symlink()
    assert files_in(tmp_path / "disk") == {"run/new.txt": b"new"}


def test_a_file_is_linked_where_the_file_system_can(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"pixels")
    link_or_copy(source, target=target)
    assert target.samefile(source)


def test_a_link_is_followed_so_that_the_target_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"pixels")
    (tmp_path / "link").symlink_to("a")
    link_or_copy(tmp_path / "link", target=tmp_path / "b")
    assert not (tmp_path / "b").is_symlink()
    assert (tmp_path / "b").read_bytes() == b"pixels"


def test_a_file_is_copied_where_it_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail)
    (tmp_path / "a").write_bytes(b"pixels")
    link_or_copy(tmp_path / "a", target=tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"pixels"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a secret beside it and links out of it, in it and in circles."""
    root = tmp_path / "run"
    (root / "images").mkdir(parents=True)
    (root / "images/a.png").write_bytes(b"a")
    (tmp_path / "run_secret").mkdir()
    (tmp_path / "run_secret/s.png").write_bytes(b"secret")
    (root / "images/out.png").symlink_to(tmp_path / "run_secret/s.png")
    (root / "beside").symlink_to(tmp_path / "run_secret")
    (root / "images/alias.png").symlink_to("a.png")
    (root / "circle.png").symlink_to("circle.png")
    return root


@pytest.mark.parametrize(
    "relative",
    [
        "",
        "..",
        "../..",
        "../run_secret/s.png",
        "images/../../run_secret/s.png",
        "/etc/hostname",
        "images/out.png",
        "beside/s.png",
        "images/a\0.png",
        "circle.png",
        "images/\ud800.png",
    ],
)
def test_a_path_that_leaves_the_root_is_none(root: Path, relative: str) -> None:
    assert resolve_inside(root.resolve(), relative=relative) is None


def test_an_absolute_path_is_none_even_inside_the_root(root: Path) -> None:
    assert resolve_inside(root.resolve(), relative=str(root / "images/a.png")) is None


@pytest.mark.parametrize(
    "relative",
    ["images/a.png", "./images/a.png", "images/../images/a.png", "images/alias.png"],
)
def test_a_path_inside_the_root_is_resolved(root: Path, relative: str) -> None:
    assert resolve_inside(root.resolve(), relative=relative) == (root / "images/a.png").resolve()


def test_a_file_that_does_not_exist_yet_can_be_inside(root: Path) -> None:
    assert (
        resolve_inside(root.resolve(), relative="images/z.png") == root.resolve() / "images/z.png"
    )


def test_the_root_itself_may_be_reached_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    found = resolve_inside((tmp_path / "alias").resolve(), relative="images/a.png")
    assert found == (root / "images/a.png").resolve()
