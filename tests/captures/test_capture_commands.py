"""`haustra import`, `prune` and `overlay` through the real command line, in this process."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders import files_in, write_frame, write_image, write_json, write_run
from haustra.captures.importers.dataset import ImportConfig
from haustra.captures.importers.paired import import_yolo
from haustra.captures.overlay import OverlayConfig, draw_overlays
from haustra.captures.prune import PruneConfig, prune_captures
from haustra.captures.reader import read_run, read_runs
from haustra.cli.main import main

Capture = pytest.CaptureFixture[str]


def mistake(capsys: Capture, *arguments: object) -> str:
    """Run a command that must fail; return what it says."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def lines_of(capsys: Capture, *arguments: object) -> list[str]:
    """Run a command that must succeed; return its lines, without the spaces at their ends."""
    main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert shown.err == ""
    return [line.rstrip() for line in shown.out.splitlines()]


def json_of(capsys: Capture, *arguments: object) -> Any:
    return json.loads("\n".join(lines_of(capsys, *arguments, "--json")))


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """A capture root with a run of two usable frames, an empty one and one without its image."""
    run = write_run(tmp_path / "captures/run_a", [[1, 2, 9, 9]], [[1, 2, 9, 9], [5, 5, 5, 5]], [])
    write_frame(run, 3, boxes_px=[[1, 2, 9, 9]])
    (run / "images/frame_00003.png").unlink()
    return tmp_path / "captures"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A data set of three images with masks: a box, nothing, a box."""
    root = tmp_path / "Kvasir"
    (root / "masks").mkdir(parents=True)
    for index in range(3):
        write_image(root / f"images/{index}.jpg", seed=index)
        mask = np.zeros((24, 32), np.uint8)
        mask[4:14, 6:16] = 255 * (index != 1)
        cv2.imwrite(str(root / f"masks/{index}.png"), mask)
    return root


def test_pruning_an_empty_capture_root_is_a_mistake(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "filtered"
    (tmp_path / "captures").mkdir()
    said = mistake(capsys, "prune", "--captures", tmp_path / "captures", "--output-root", target)
    assert said == (
        f"haustra: {tmp_path / 'captures'} holds no run folder; make one with `haustra datagen` "
        "or `haustra import`\n"
    )
    assert not target.exists()


def test_a_ratio_out_of_range_is_a_mistake(capsys: Capture) -> None:
    said = mistake(capsys, "prune", "--empty-ratio", "1.5")
    assert said == "haustra: --empty-ratio 1.5: expected a number from 0 to 1\n"


def test_drawing_another_folder_than_a_run_is_a_mistake(tmp_path: Path, capsys: Capture) -> None:
    assert mistake(capsys, "overlay", tmp_path) == (
        f"haustra: {tmp_path} is not a run folder: it has no labels/ folder; expected what "
        "`haustra datagen` or `haustra import` writes\n"
    )


@pytest.mark.parametrize("layout", ["masks", "yolo", "voc"])
def test_importing_a_missing_folder_is_a_mistake(
    tmp_path: Path, capsys: Capture, layout: str
) -> None:
    missing = tmp_path / "gone"
    said = mistake(capsys, "import", layout, missing, tmp_path)
    assert said == f"haustra: {missing} does not exist; expected a folder of images\n"


def test_importing_a_missing_coco_file_is_a_mistake(tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "gone.json"
    said = mistake(capsys, "import", "coco", tmp_path, missing)
    assert said == f"haustra: {missing} does not exist; expected a COCO annotation file\n"


def test_a_smallest_component_below_one_pixel_is_a_mistake(masks: Path, capsys: Capture) -> None:
    said = mistake(
        capsys, "import", "masks", masks / "images", masks / "masks", "--min-pixels", "0"
    )
    assert said == "haustra: --min-pixels 0: expected a whole number of at least 1\n"


def test_importing_twice_is_a_mistake(masks: Path, capsys: Capture) -> None:
    root = masks.parent / "captures"
    command = ["import", "masks", masks / "images", masks / "masks", "--output-root", root]
    lines_of(capsys, *command)
    said = mistake(capsys, *command)
    folder = root / "run_kvasir"
    assert said == f"haustra: {folder} exists already; remove it or pass --overwrite\n"
    lines_of(capsys, *command, "--overwrite")


def test_an_unknown_option_is_a_mistake(capsys: Capture) -> None:
    said = mistake(capsys, "prune", "--nope")
    assert said == "haustra: Unknown option: --nope. See --help.\n"


def test_a_value_of_another_type_is_a_mistake(capsys: Capture) -> None:
    assert mistake(capsys, "prune", "--empty-ratio", "half") == (
        'haustra: Invalid value for --empty-ratio: unable to convert "half" into float. '
        "See --help.\n"
    )


def test_an_unknown_command_is_a_mistake_and_names_the_known_ones(capsys: Capture) -> None:
    said = mistake(capsys, "frobnicate")
    start = 'haustra: Unknown command "frobnicate". Available commands: datagen, import, '
    assert said.startswith(start)
    assert said.endswith(" See --help.\n")
    assert said.count("\n") == 1


def test_an_unknown_layout_is_a_mistake_and_names_the_known_ones(capsys: Capture) -> None:
    assert mistake(capsys, "import", "tfrecord") == (
        'haustra: Unknown command "tfrecord". Available commands: masks, coco, yolo, voc, '
        "cvat, label-studio, labelme, video, ... See --help.\n"
    )


def test_a_missing_argument_is_a_mistake(capsys: Capture) -> None:
    assert mistake(capsys, "overlay") == (
        'haustra: Command "overlay" parameter RUN requires an argument. See --help.\n'
    )


def test_import_prints_its_result_and_the_next_command(masks: Path, capsys: Capture) -> None:
    root = masks.parent / "captures"
    lines = lines_of(
        capsys, "import", "masks", masks / "images", masks / "masks", "--output-root", root
    )
    folder = root / "run_kvasir"
    assert lines == [
        f"imported 3 images with 2 boxes into {folder} (1 without a box, 0 boxes clipped, "
        "0 rejected)",
        "classes: 255 (2)",
        f"look at them: haustra overlay {folder} --max-frames 20",
    ]
    assert len(list((folder / "images").iterdir())) == 3


def test_import_shows_the_first_notes_and_counts_the_others(
    tmp_path: Path, capsys: Capture
) -> None:
    images, annotations = tmp_path / "images", tmp_path / "a.json"
    write_image(images / "a.png")
    items = [{"image_id": 1, "bbox": [index, 0, 0, 5]} for index in range(7)]
    items.append({"image_id": 1, "bbox": [0, 0, 5, 5]})
    write_json(annotations, {"images": [{"id": 1, "file_name": "a.png"}], "annotations": items})
    output = ["--output-root", tmp_path / "captures", "--run-id", "x"]
    lines = lines_of(capsys, "import", "coco", images, annotations, *output)
    assert lines[2:8] == [
        *(f"  a.png: box [{index}, 0, {index}, 5] is empty" for index in range(5)),
        "  ... and 2 more",
    ]


def test_import_prints_json_when_asked(masks: Path, capsys: Capture) -> None:
    root = masks.parent / "captures"
    command = ["import", "masks", masks / "images", masks / "masks", "--output-root", root]
    assert json_of(capsys, *command, "--min-pixels", "100", "--run-id", "own") == {
        "run": str(root / "run_own"),
        "images": 3,
        "boxes": 2,
        "empty": 1,
        "clipped_boxes": 0,
        "rejected_boxes": 0,
        "similar_images": 0,
        "classes": {"255": 2},
        "notes": [],
    }


def test_prune_prints_a_row_per_run_and_the_next_command(captures: Path, capsys: Capture) -> None:
    other = write_run(captures / "run_b", [[1, 2, 3, 4]])
    write_image(other / "images/extra.png")
    target = captures.parent / "filtered"
    lines = lines_of(capsys, "prune", "--captures", captures, "--output-root", target)
    assert [line.split() for line in lines[:4]] == [
        [
            "run",
            "kept",
            "invalid",
            "missing",
            "without",
            "image",
            "duplicate",
            "empty",
            "unlabelled",
        ],
        ["run_a", "3", "0", "1", "0", "0", "0", "0"],
        ["run_b", "1", "0", "0", "0", "0", "0", "1"],
        ["total", "4", "0", "1", "0", "0", "0", "1"],
    ]
    assert lines[4:] == [
        f"every dropped frame is named in {target / 'prune_report.json'}",
        f"next: haustra etl --captures {target}",
    ]
    assert "run_a/labels/frame_00002.json" in files_in(target)


def test_prune_prints_json_when_asked(captures: Path, capsys: Capture) -> None:
    target = captures.parent / "filtered"
    options = ["--captures", captures, "--output-root", target, "--empty-ratio", "0"]
    expected = [
        {
            "run_id": "run_a",
            "kept": 2,
            "dropped": {
                "missing": ["run_a/images/frame_00003.png does not exist"],
                "empty": ["run_a/frame_00002"],
            },
            "conflicts": [],
        }
    ]
    assert json_of(capsys, "prune", *options) == expected
    assert json.loads((target / "prune_report.json").read_text()) == expected


PROBLEMS = [
    "run_a/frame_00001: label 1: box [5, 5, 5, 5] is empty",
    "run_a/images/frame_00003.png does not exist",
]


def test_overlay_prints_the_folder_of_the_pictures_and_the_problems(
    captures: Path, capsys: Capture
) -> None:
    run = captures / "run_a"
    assert lines_of(capsys, "overlay", run) == [
        f"drew 3 pictures in {run / 'overlays'}",
        *(f"  {problem}" for problem in PROBLEMS),
    ]
    assert len(list((run / "overlays").iterdir())) == 3


def test_overlay_prints_json_when_asked(captures: Path, capsys: Capture) -> None:
    run, out = captures / "run_a", captures.parent / "pictures"
    shown = json_of(capsys, "overlay", run, "--output-root", out, "--max-frames", "2")
    assert shown == {
        "pictures": [str(out / "frame_00000.png"), str(out / "frame_00001.png")],
        "problems": PROBLEMS[:1],
    }


def test_functions_and_settings_take_paths_as_text(tmp_path: Path) -> None:
    write_image(tmp_path / "data/images/a.png")
    (tmp_path / "data/labels").mkdir()
    imported = import_yolo(
        f"{tmp_path}/data/images",
        f"{tmp_path}/data/labels",
        config=ImportConfig(output_root=f"{tmp_path}/captures", allow_unlabelled=True),  # type: ignore[arg-type]
    )
    assert read_run(str(imported.folder)).frames == read_runs(f"{tmp_path}/captures")[0].frames
    (pruned,) = prune_captures(
        PruneConfig(captures=f"{tmp_path}/captures", output_root=f"{tmp_path}/filtered")  # type: ignore[arg-type]
    )
    assert pruned.kept == 1
    pictures = OverlayConfig(output_root=f"{tmp_path}/pictures")  # type: ignore[arg-type]
    drawn = draw_overlays(str(imported.folder), config=pictures)
    assert [picture.parent for picture in drawn.pictures] == [tmp_path / "pictures"]
