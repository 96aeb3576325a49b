import json
from pathlib import Path
from typing import Any

import pytest

from builders import label_json, write_frame, write_image, write_json, write_run
from haustra.captures.reader import (
    Frame,
    list_run_folders,
    read_run,
    read_runs,
    slugify,
)
from haustra.captures.validation import FrameProblem, check_frame
from haustra.core.errors import HaustraError


def run_with_label(tmp_path: Path, **changes: Any) -> Path:
    """A run of one frame whose label file has other fields; a field of `...` is left out."""
    run = write_run(tmp_path / "run_a", [])
    label = {key: value for key, value in label_json(**changes).items() if value is not ...}
    write_json(run / "labels/frame_00000.json", label)
    return run


def only_frame(run: Path) -> Frame:
    (frame,) = read_run(run).frames
    return frame


def run_error(run: Path) -> str:
    with pytest.raises(HaustraError) as caught:
        read_run(run)
    return str(caught.value)


def test_a_run_folder_is_read_with_its_manifest_and_labels(tmp_path: Path) -> None:
    run_folder = write_run(
        tmp_path / "run_a", run_id="a", group_id="patient 1", licence="CC-BY-4.0"
    )
    label = label_json(
        [1, 2, 3, 4],
        frame_id=7,
        sim_time=0.5,
        label_seed=3,
        labels=[
            {
                "lesion_id": "a/polyp_1",
                "center_world": [1, 2, 3],
                "bbox_px": [1, 2, 3, 4],
                "visible_fraction": 0.25,
                "size_mm": 4.5,
                "paris_class": "0-Is",
            }
        ],
    )
    write_json(run_folder / "labels/frame_00000.json", label)
    run = read_run(run_folder)
    assert (run.folder, run.run_id, run.unlabeled) == (run_folder, "a", ())
    assert (run.manifest.group_id, run.manifest.licence) == ("patient 1", "CC-BY-4.0")
    (frame,) = run.frames
    assert (frame.sample_id, frame.name, frame.group_id) == (
        "a/frame_00000",
        "frame_00000",
        "patient 1",
    )
    assert frame.image_path == (run_folder / "images/frame_00000.png").resolve()
    assert frame.problem is None
    assert frame.label is not None
    assert (frame.label.frame_id, frame.label.sim_time, frame.label.label_seed) == (7, 0.5, 3)
    (polyp,) = frame.label.labels
    assert (polyp.lesion_id, polyp.center_world) == ("a/polyp_1", [1, 2, 3])
    assert (polyp.bbox_px, polyp.bbox_norm) == ([1, 2, 3, 4], None)
    assert (polyp.visible_fraction, polyp.size_mm, polyp.paris_class) == (0.25, 4.5, "0-Is")


def test_a_run_without_an_id_goes_by_its_folder(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run_17", []))
    assert run.run_id == "run_17"
    assert (run.frames[0].group_id, run.frames[0].sample_id) == ("run_17", "run_17/frame_00000")


def test_a_run_without_a_manifest_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_17", [])
    (folder / "run_manifest.json").unlink()
    assert read_run(folder).run_id == "run_17"


def test_the_current_folder_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run_17", [])
    monkeypatch.chdir(folder)
    assert read_run(Path()).run_id == "run_17"
    monkeypatch.chdir(folder / "labels")
    assert read_run(Path("..")).run_id == "run_17"


def test_a_frames_group_overrides_the_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], [], group_id="patient 1")
    write_frame(folder, 1, group_id="patient 2")
    assert [frame.group_id for frame in read_run(folder).frames] == ["patient 1", "patient 2"]


def test_frames_are_ordered_by_name_and_hidden_files_are_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a")
    for index in (10, 2, 1):
        write_frame(folder, index)
    (folder / "labels/._frame_00001.json").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves these
    (folder / "images/._frame_00001.png").write_bytes(b"\x00\x05\x16\x07")
    run = read_run(folder)
    assert [frame.name for frame in run.frames] == ["frame_00001", "frame_00002", "frame_00010"]
    assert run.unlabeled == ()


def test_images_that_no_label_mentions_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [])
    for name in ("frame_00009.png", "frame_00004.jpg"):
        write_image(folder / "images" / name)
    assert read_run(folder).unlabeled == ("frame_00004.jpg", "frame_00009.png")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"frame_id": ...}, "field 'frame_id' is missing"),
        ({"image": ...}, "field 'image' is missing"),
        ({"labels": ...}, "field 'labels' is missing"),
        (
            {"schema_version": 2},
            "field 'schema_version': Input should be 1, got 2",
        ),
        (
            {"schema_version": "V2"},
            "field 'schema_version': Input should be 1, got 'V2'",
        ),
        (
            {"frame_id": -1},
            "field 'frame_id': Input should be greater than or equal to 0, got -1",
        ),
        ({"labels": None}, "field 'labels': Input should be a valid list, got None"),
        ({"image": 3}, "field 'image': Input should be a valid string, got 3"),
        (
            {"labels": [{"bbox_px": [0, 0, 1, 1]}, {"size_mm": "small"}]},
            "field 'labels.1.size_mm': Input should be a valid number, "
            "unable to parse string as a number, got 'small'",
        ),
    ],
)
def test_a_label_file_of_another_shape_rejects_its_frame_naming_the_field(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    frame = only_frame(run_with_label(tmp_path, **changes))
    assert frame.label is None
    assert frame.problem == f"run_a/labels/frame_00000.json is not a frame label: {problem}"


def test_a_label_file_that_is_not_json_rejects_its_frame_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], [])
    (folder / "labels/frame_00000.json").write_text("{")
    broken, fine = read_run(folder).frames
    assert broken.problem == (
        "run_a/labels/frame_00000.json is not JSON (line 1: Expecting property name enclosed in "
        "double quotes); expected a frame label"
    )
    assert fine.problem is None


def test_the_image_of_a_broken_label_file_is_not_one_without_a_label(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [])
    (folder / "labels/frame_00000.json").write_text("{")
    assert read_run(folder).unlabeled == ()


def test_a_label_file_that_python_gives_up_on_rejects_its_frame_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], [])
    (folder / "labels/frame_00000.json").write_text("[" * 200_000)
    broken, fine = read_run(folder).frames
    assert broken.problem is not None
    assert broken.problem.startswith("run_a/labels/frame_00000.json is not usable JSON (")
    assert fine.problem is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read whole, links followed."""
    opened: list[Path] = []
    read_bytes = Path.read_bytes

    def read_and_note(path: Path) -> bytes:
        opened.append(path.resolve())
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_and_note)
    return opened


@pytest.mark.parametrize(
    "image",
    [
        "../secret.png",
        "../../secret.png",
        "images/../../secret.png",
        "{tmp_path}/secret.png",
        "{tmp_path}/run_a/images/frame_00000.png",
        "images/link.png",
        "shortcut/secret.png",
        "",
    ],
)
def test_an_image_outside_the_run_rejects_its_frame_and_is_not_opened(
    tmp_path: Path, opened: list[Path], image: str
) -> None:
    image = image.format(tmp_path=tmp_path)
    folder = run_with_label(tmp_path, image=image)
    write_image(tmp_path / "secret.png")
    (folder / "images/link.png").symlink_to(tmp_path / "secret.png")
    (folder / "shortcut").symlink_to(tmp_path)
    frame = only_frame(folder)
    reason = (
        f"run_a/labels/frame_00000.json: image {image!r} points outside the run folder; "
        "expected a path inside it such as 'images/frame_00000.png'"
    )
    assert frame.problem == reason
    assert check_frame(frame) == FrameProblem(
        frame=frame, file="labels/frame_00000.json", kind="invalid", reason=reason
    )
    assert opened
    assert all(path.is_relative_to(folder.resolve()) for path in opened)


@pytest.mark.parametrize("image", ["images/\ud800.png", "images/a\0.png", "circle.png"])
def test_an_image_that_names_no_file_rejects_its_frame(tmp_path: Path, image: str) -> None:
    folder = run_with_label(tmp_path, image=image)
    (folder / "circle.png").symlink_to("circle.png")
    frame = only_frame(folder)
    assert frame.problem is not None
    assert "points outside the run folder" in frame.problem


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    assert run_error(tmp_path) == (
        f"{tmp_path} is not a run folder: it has no labels/ folder; expected what "
        "`haustra datagen` or `haustra import` writes"
    )


def test_a_malformed_manifest_is_refused_naming_the_field(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], run_id=["a"])
    manifest = folder / "run_manifest.json"
    assert run_error(folder) == (
        f"{manifest} is not a run manifest: field 'run_id': Input should be a valid string, "
        "got ['a']"
    )
    write_json(manifest, [])
    assert run_error(folder) == (
        f"{manifest} is not a run manifest: field 'the file': Input should be a valid dictionary "
        "or instance of RunManifest, got []"
    )
    manifest.write_text("{")
    assert run_error(folder).startswith(f"{manifest} is not JSON (line 1: ")


def test_a_manifest_of_an_unknown_version_is_refused_naming_both(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [], schema_version="V7")
    assert run_error(folder) == (
        f"{folder / 'run_manifest.json'} is not a run manifest: field 'schema_version': Input "
        "should be 1, got 'V7'"
    )


def test_runs_are_listed_by_name_without_other_folders(tmp_path: Path) -> None:
    for name in ("run_b", "run_a", ".run_c"):
        write_run(tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("")
    assert [path.name for path in list_run_folders(tmp_path)] == ["run_a", "run_b"]


def test_a_run_folder_is_a_capture_root_of_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a")
    assert list_run_folders(folder) == [folder]


def test_a_capture_root_without_runs_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HaustraError) as empty:
        list_run_folders(tmp_path)
    assert str(empty.value) == (
        f"{tmp_path} holds no run folder; make one with `haustra datagen` or `haustra import`"
    )
    with pytest.raises(HaustraError) as missing:
        list_run_folders(tmp_path / "gone")
    assert str(missing.value) == (
        f"{tmp_path / 'gone'} does not exist; expected a folder with run folders; make one with "
        "`haustra datagen` or `haustra import`"
    )


def test_a_run_id_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "run_a", [], run_id="x")
    second = write_run(tmp_path / "run_b", [], run_id="x")
    with pytest.raises(HaustraError) as caught:
        read_runs(tmp_path)
    assert str(caught.value) == (
        f"run id 'x' is used by both {first} and {second}; "
        "remove one or change the run_id in its run_manifest.json"
    )


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Kvasir-SEG", "kvasir-seg"),
        ("  CVC ClinicDB (2015) ", "cvc-clinicdb-2015"),
        ("a__b", "a-b"),
        ("Größe", "größe"),
        ("大肠息肉 2", "大肠息肉-2"),
        ("Gro\u0308ße", "größe"),
        ("हिन्दी", "हिन्दी"),
        ("!!!", "import"),
        ("", "import"),
    ],
)
def test_a_slug_has_small_letters_of_any_script_digits_and_single_hyphens(
    text: str, slug: str
) -> None:
    assert slugify(text) == slug


def test_label_files_are_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run_a", [])
    text = json.dumps(label_json(group_id="Müller"), ensure_ascii=False)
    (folder / "labels/frame_00000.json").write_text(text, encoding="utf-8-sig")
    assert only_frame(folder).group_id == "Müller"
