"""`haustra import yolo data.yaml`: a run for each split of a YOLO dataset."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import files_in, write_image
from haustra.captures.importers.data_yaml import import_data_yaml
from haustra.captures.importers.dataset import ImportConfig, ImportResult
from haustra.captures.reader import Run, read_run
from haustra.cli.main import main
from haustra.core.errors import HaustraError

BOX = "0 0.5 0.5 0.5 0.5\n"
NAMES = "names: [polyp]\n"


def write_pair(root: Path, image: str, text: str | None = BOX, *, seed: int | None = None) -> None:
    """Write an image, with an own content, and the label file that YOLO would look for."""
    own = sum(map(ord, image)) if seed is None else seed
    write_image(root / image, seed=own, size_wh=(40, 20))
    if text is not None:
        head, _, tail = f"/{image}".rpartition("/images/")
        label = root / f"{head}/labels/{tail}"[1:]
        label.parent.mkdir(parents=True, exist_ok=True)
        label.with_suffix(".txt").write_text(text)


def write_dataset(root: Path, content: str, *images: str) -> Path:
    for image in images or ("images/train/a.png", "images/train/b.png", "images/val/c.png"):
        write_pair(root, image)
    path = root / "data.yaml"
    path.write_text(content)
    return path


def run_import(path: Path, **changes: Any) -> list[ImportResult]:
    config = ImportConfig(**{"output_root": path.parent.parent / "captures", **changes})
    return import_data_yaml(path, config=config)


def runs_of(path: Path, **changes: Any) -> dict[str, Run]:
    runs = [read_run(result.folder) for result in run_import(path, **changes)]
    return {run.run_id: run for run in runs}


def names_in(run: Run) -> list[str | None]:
    return [frame.label.source_name for frame in run.frames if frame.label]


def import_error(path: Path, **changes: Any) -> str:
    with pytest.raises(HaustraError) as caught:
        run_import(path, **changes)
    assert files_in(path.parent.parent / "captures") == {}
    return str(caught.value)


TWO = f"train: images/train\nval: images/val\n{NAMES}"


def test_each_split_is_a_run_that_states_it(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "Ward 5", f"{TWO}nc: 1\ntest:\n")
    runs = runs_of(path)
    assert {run_id: run.manifest.split for run_id, run in runs.items()} == {
        "ward-5-train": "train",
        "ward-5-val": "val",
    }
    train = runs["ward-5-train"]
    assert names_in(train) == ["images/train/a.png", "images/train/b.png"]
    assert [frame.label.labels[0].bbox_px for frame in train.frames if frame.label] == [
        [10, 5, 30, 15]
    ] * 2
    assert [frame.group_id for frame in train.frames] == ["images/train/a", "images/train/b"]


def test_equal_names_in_two_splits_are_two_groups(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO, "images/train/1.png", "images/val/1.png")
    groups = [frame.group_id for run in runs_of(path).values() for frame in run.frames]
    assert groups == ["images/train/1", "images/val/1"]


@pytest.mark.parametrize(
    ("content", "images"),
    [
        (
            f"path: .\ntrain: images/t\nvalid: images/v\n{NAMES}",
            ("images/t/a.png", "images/v/b.png"),
        ),
        # Roboflow: the folders lie beside the file, whatever the path says.
        (
            f"train: ../train/images\nval: ../valid/images\n{NAMES}",
            ("train/images/a.png", "valid/images/b.png"),
        ),
        (
            f"path: /gone/away\ntrain: t/images\nval: v/images\n{NAMES}",
            ("t/images/a.png", "v/images/b.png"),
        ),
        (
            f"path: inner\ntrain: images/t\ndev: images/v\n{NAMES}",
            ("inner/images/t/a.png", "inner/images/v/b.png"),
        ),
        (
            f"train: [t1, t2]\nvalidation: v\n{NAMES}",
            ("t1/images/a.png", "t2/images/c.png", "v/images/b.png"),
        ),
        (f"train: images\\t\nval: images\\v\n{NAMES}", ("images/t/a.png", "images/v/b.png")),
        (f"train: flat/t\nval: flat/v\n{NAMES}", ("flat/t/images/a.png", "flat/v/images/b.png")),
    ],
)
def test_folders_are_found_as_ultralytics_finds_them(
    tmp_path: Path, content: str, images: tuple[str, ...]
) -> None:
    runs = runs_of(write_dataset(tmp_path / "data", content, *images))
    assert runs["data-val"].manifest.split == "val"
    found = [name or "" for run in runs.values() for name in names_in(run)]
    assert sorted(found) == sorted(image.removeprefix("inner/") for image in images)
    assert all(f.label and f.label.labels for run in runs.values() for f in run.frames)


def test_a_path_relative_to_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "sets/polyps", TWO)
    path = tmp_path / "configs/polyps.yaml"
    path.parent.mkdir()
    path.write_text(f"path: sets/polyps\n{TWO}")
    monkeypatch.chdir(tmp_path)
    assert runs_of(path).keys() == {"configs-train", "configs-val"}


def test_a_path_that_does_not_exist_is_noted(tmp_path: Path) -> None:
    first, second = run_import(write_dataset(tmp_path / "data", f"path: ../datasets/x\n{TWO}"))
    assert first.notes == [
        "path '../datasets/x' of data.yaml does not exist: its own folder is taken"
    ]
    assert second.notes == []


def test_a_dataset_is_imported_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", TWO)
    monkeypatch.chdir(tmp_path / "data")
    main(["import", "yolo", "data.yaml", "--output-root", "../captures"])
    assert capsys.readouterr().out == (
        "../captures/run_data-train: 2 images, 2 boxes, 0 without a box, 0 rejected\n"
        "../captures/run_data-val: 1 image, 1 box, 0 without a box, 0 rejected\n"
    )
    main(["import", "yolo", ".", "--output-root", "../again", "--json"])
    assert [run["images"] for run in json.loads(capsys.readouterr().out)] == [2, 1]


def test_lists_of_images_choose_from_one_folder(tmp_path: Path) -> None:
    images = tuple(f"images/{name}.png" for name in "abcd")
    path = write_dataset(
        tmp_path / "data", f"train: train.txt\nval: sets/val.txt\n{NAMES}", *images
    )
    (path.parent / "train.txt").write_text("./images/b.png\n\nimages\\a.png\n")
    (path.parent / "sets").mkdir()
    (path.parent / "sets/val.txt").write_text(f"images/c.png\n{path.parent / 'images/c.png'}\n")
    train, val = run_import(path)
    assert names_in(read_run(train.folder)) == ["images/a.png", "images/b.png"]
    assert names_in(read_run(val.folder)) == ["images/c.png"]
    assert train.notes == ["1 YOLO label file(s) have no image in any split: 'labels/d.txt'"]
    assert val.notes == ["1 image(s) are named twice in val"]


def test_images_that_a_list_names_and_that_are_gone_are_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", f"train: train.txt\n{NAMES}", "images/a.png")
    (path.parent / "train.txt").write_text("images/a.png\nimages/gone.png\n")
    assert import_error(path) == (
        f"{path.parent / 'train.txt'} lists 1 image(s) that do not exist: 'images/gone.png'; "
        f"expected paths relative to {path.parent} or {path.parent}"
    )


def test_missing_splits_are_all_named(tmp_path: Path) -> None:
    content = f"train: images/train\nval: images/vall\ntest: ../test/images\n{NAMES}"
    path = write_dataset(tmp_path / "data", content)
    message = import_error(path)
    assert message.startswith(
        f"2 mistakes: (1) {path}: val is 'images/vall', which does not exist in {path.parent}; "
        "expected a folder of images or a .txt list of images; correct it, or remove that line; (2)"
    )
    assert "test is '../test/images'" in message


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO, "images/train/a.png")
    (path.parent / "images/val").mkdir()
    assert import_error(path).startswith(f"{path}: val ('images/val') holds no image (PNG")


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", f"train: images\nval: images/val\n{NAMES}")
    assert import_error(path) == (
        f"{path}: train and val share 1 image(s): 'images/val/c.png'; expected each image in one "
        "split"
    )


def test_equal_bytes_in_two_splits_are_noted(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO, "images/train/a.png", "images/val/b.png")
    for image in ("images/train/a.png", "images/val/other.png"):
        write_pair(path.parent, image, seed=77)
    train, val = run_import(path)
    assert train.notes == []
    assert val.notes == [
        "image with the same bytes as one of split 'train': 1, first in 'images/val/other.png'"
    ]


def test_a_test_split_that_is_the_validation_split_is_taken_once(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", f"{TWO}test: images/val\n")
    train, val = run_import(path)
    assert (train.folder.name, val.folder.name) == ("run_data-train", "run_data-val")
    assert val.notes == ["val and test name the same images: taken once"]


def test_one_folder_for_all_splits_states_none(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", f"train: images\nval: images\n{NAMES}")
    (run,) = runs_of(path).values()
    assert (run.run_id, run.manifest.split, len(run.frames)) == ("data", None, 3)


def test_classes_are_chosen_by_name_or_number_over_all_splits(tmp_path: Path) -> None:
    content = (
        "train: images/train\nval: images/val\nnc: 3\nnames:\n  0: polyp\n  1: no\n  2: tool\n"
    )
    path = write_dataset(tmp_path / "data", content)
    write_pair(path.parent, "images/val/d.png", "2 0.5 0.5 0.5 0.5\n1 0.25 0.5 0.5 0.5\n")
    assert import_error(path) == (
        "the boxes have 3 classes: 'polyp' (3 boxes), 'tool' (1 box), 'no' (1 box); expected "
        "one; choose those that are polyps with classes='polyp'"
    )
    train, val = run_import(path, classes="0,no")
    assert (train.num_boxes, val.num_boxes) == (2, 2)
    assert val.notes == ["1 box(es) of class 'tool' are left out"]
    train, val = run_import(path, classes="tool", output_root=tmp_path / "other")
    assert (train.num_boxes, val.num_boxes, val.num_empty) == (0, 1, 1)


def test_several_names_of_which_one_is_used_need_no_choice(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO.replace("[polyp]", "[polyp, tool]"))
    assert [result.classes for result in run_import(path)] == [{"polyp": 2}, {"polyp": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "{path} holds no keys; expected the data.yaml of a YOLO dataset"),
        ("train: [\n", "{path} is not YAML (while parsing"),
        ("nc: 1\nnames: [polyp]\n", "{path} has no train, val or test; expected the data.yaml"),
        ("train: {a: b}\n", "{path}: train is {{'a': 'b'}}; expected a path or a list of them"),
        ("val: a\nvalid: b\n", "{path} has two keys for the split 'val'; expected one"),
        (TWO + "nc: 2\n", "{path}: nc is '2', but names has 1"),
        (
            TWO.replace("[polyp]", "polyp"),
            "{path}: names is 'polyp'; expected a list of names, or a name for each number",
        ),
        (
            TWO.replace("[polyp]", "[polyp, polyp ]"),
            "{path}: 2 classes are called 'polyp'; expected different names",
        ),
    ],
)
def test_a_file_that_is_not_understood_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = write_dataset(tmp_path / "data", content)
    assert import_error(path).startswith(message.format(path=path))


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    write_pair(path.parent, "images/val/c.png", "4 0.5 0.5 0.5 0.5\n")
    label = path.parent / "labels/val/c.txt"
    assert import_error(path) == (
        f"{label}: class 4 is not in the names of {path}; expected one of 0 (polyp)"
    )


def test_a_file_in_utf_16_without_names_gives_numbers(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", "")
    path.write_text("train: images/train\nval: images/val\nnc: 1\n", encoding="utf-16")
    assert [result.classes for result in run_import(path)] == [{"0": 2}, {"0": 1}]


def test_a_split_without_any_label_file_is_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO, "images/train/a.png")
    write_pair(path.parent, "images/train/b.png", None)
    write_pair(path.parent, "images/val/c.png", None)
    assert import_error(path) == (
        f"{path}: none of the 1 image(s) of val has a YOLO label file; expected files such as "
        f"{path.parent / 'labels/val/c.txt'}, or allow_unlabelled=True to take such images as "
        "negatives"
    )
    train, val = run_import(path, allow_unlabelled=True)
    assert train.notes == ["1 image(s) have no YOLO label file: taken as negatives"]
    assert (val.num_boxes, val.num_empty) == (0, 1)


def test_label_files_without_an_image_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    for name in ("labels/val/old.txt", "labels/train/sub/x.txt", "labels/classes.txt"):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text(BOX)
    assert import_error(path) == (
        f"{path}: 2 YOLO label file(s) have no image in any split: 'labels/train/sub/x.txt', "
        "'labels/val/old.txt'; expected an image for each"
    )


def test_two_images_with_one_label_file_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    write_pair(path.parent, "images/val/c.bmp")
    assert import_error(path) == (
        f"2 images have the label file {path.parent / 'labels/val/c.txt'}, so they would be "
        "confused; expected one image for each"
    )


def test_mistakes_of_all_splits_are_reported_together(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    for image in ("images/train/a.png", "images/val/c.png"):
        write_pair(path.parent, image, "0 0.5 0.5\n")
    message = import_error(path)
    assert message.startswith("2 mistakes: (1) ")
    assert "train/a.txt, line 1" in message
    assert "val/c.txt, line 1" in message


def test_a_folder_without_one_data_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(HaustraError, match="is a folder with none; expected one"):
        import_data_yaml(tmp_path / "data")
    for name in ("a.yaml", "b.yml"):
        (tmp_path / "data" / name).write_text(TWO)
    with pytest.raises(HaustraError, match=r"with 2: 'a.yaml', 'b.yml'; expected one data.yaml"):
        import_data_yaml(tmp_path / "data")


def test_a_split_of_the_settings_contradicts_the_file(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    assert import_error(path, split="test") == (
        f"split='test': {path} states the splits itself; expected one of them"
    )


def test_an_existing_run_of_one_split_leaves_the_other_unwritten(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", TWO)
    (tmp_path / "captures/run_data-val").mkdir(parents=True)
    assert "run_data-val exists already" in import_error(path)
    assert [folder.name for folder in (tmp_path / "captures").iterdir()] == ["run_data-val"]


def test_the_splits_of_a_data_yaml_reach_the_warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", TWO)
    monkeypatch.chdir(tmp_path)
    main(["import", "yolo", "data"])
    main(["prune"])
    capsys.readouterr()
    main(["etl", "--split", "dataset", "--target-size", "64", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert {name: made["splits"][name]["samples"] for name in made["splits"]} == {
        "train": 2,
        "val": 1,
        "test": 0,
    }
