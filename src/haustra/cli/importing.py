"""`haustra import`: a command for each annotation format, and for each public dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from haustra.captures.importers.coco import CocoImportConfig, import_coco
from haustra.captures.importers.cvat import import_cvat
from haustra.captures.importers.data_yaml import import_data_yaml
from haustra.captures.importers.dataset import DatasetConfig, ImportConfig, ImportResult
from haustra.captures.importers.label_studio import import_label_studio
from haustra.captures.importers.labelme import import_labelme
from haustra.captures.importers.layouts import LAYOUTS, LayoutName, import_layout
from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.captures.importers.paired import VocImportConfig, import_voc, import_yolo
from haustra.captures.importers.video import VideoImportConfig, import_video
from haustra.cli.terminal import Flags, Json, build_progress, print_result, problem_lines
from haustra.core.plurals import counted

app = App(name="import")

Images = Annotated[Path, Parameter(help="Folder of images.")]
Settings = Annotated[ImportConfig | None, Flags]
MaskSettings = Annotated[MaskImportConfig | None, Flags]
CocoSettings = Annotated[CocoImportConfig | None, Flags]
VocSettings = Annotated[VocImportConfig | None, Flags]


def _import(
    importer: Callable[..., ImportResult],
    images: Path,
    annotations: Path,
    *,
    config: DatasetConfig,
    as_json: bool,
) -> None:
    progress = build_progress(as_json=as_json)
    _show(importer(images, annotations, config=config, progress=progress), as_json=as_json)


def _show_runs(results: list[ImportResult], *, as_json: bool, not_known: str = "") -> None:
    """Print the counts and notes of several runs, with the note `not_known` at their end."""
    lines = []
    for result in results:
        lines.append(
            f"{result.folder}: {counted(result.num_images, 'image')}, "
            f"{counted(result.num_boxes, 'box')}, "
            f"{result.num_empty} without a box, {result.num_rejected} rejected"
        )
        lines += problem_lines([note for note in result.notes if note != not_known])
    value = [{"run": result.folder, **result.as_json()} for result in results]
    print_result(value, *lines, *filter(None, [not_known]), as_json=as_json)


def _show(result: ImportResult, *, as_json: bool) -> None:
    classes = ", ".join(f"{name} ({count})" for name, count in result.classes.items())
    print_result(
        {"run": result.folder, **result.as_json()},
        f"imported {counted(result.num_images, 'image')} with {counted(result.num_boxes, 'box')} "
        f"into {result.folder} ({result.num_empty} without a box, "
        f"{counted(result.num_clipped, 'box')} clipped, {result.num_rejected} rejected)",
        f"classes: {classes or 'none'}",
        *problem_lines(result.notes),
        f"look at them: haustra overlay {result.folder} --max-frames 20",
        as_json=as_json,
    )


@app.command(name="masks")
def masks(
    images: Images, masks: Path, /, *, config: MaskSettings = None, as_json: Json = False
) -> None:
    """Import a folder of images with a folder of masks (Kvasir-SEG, CVC-ClinicDB).

    Args:
        masks: Folder of masks with the same stems, or named by --mask-name; polyps are not black.
    """
    _import(import_masks, images, masks, config=config or MaskImportConfig(), as_json=as_json)


@app.command(name="coco")
def coco(
    images: Path, annotations: Path, /, *, config: CocoSettings = None, as_json: Json = False
) -> None:
    """Import images with a COCO annotation file; each of its videos becomes a run.

    Args:
        images: Folder that the file names of the annotations are relative to.
        annotations: The COCO JSON file.
    """
    config, progress = config or CocoImportConfig(), build_progress(as_json=as_json)
    results = import_coco(images, annotations, config=config, progress=progress)
    if len(results) == 1:
        _show(results[0], as_json=as_json)
    else:
        _show_runs(results, as_json=as_json)


@app.command(name="yolo")
def yolo(
    images: Path, labels: Path | None = None, /, *, config: Settings = None, as_json: Json = False
) -> None:
    """Import a dataset of YOLO: data.yaml, or a folder of images with a folder of label files.

    Args:
        images: The data.yaml or its folder, of which each split becomes a run; or, with LABELS, a
            folder of images.
        labels: Folder of text files with the same stems; an image without one is a negative.
    """
    if labels is None:
        progress = build_progress(as_json=as_json)
        _show_runs(import_data_yaml(images, config=config, progress=progress), as_json=as_json)
        return
    _import(import_yolo, images, labels, config=config or ImportConfig(), as_json=as_json)


@app.command(name="voc")
def voc(
    images: Images, annotations: Path, /, *, config: VocSettings = None, as_json: Json = False
) -> None:
    """Import a folder of images with a folder of Pascal VOC annotations.

    Args:
        annotations: Folder of XML files with the same stems.
    """
    _import(import_voc, images, annotations, config=config or VocImportConfig(), as_json=as_json)


@app.command(name="cvat")
def cvat(
    images: Images, annotations: Path, /, *, config: Settings = None, as_json: Json = False
) -> None:
    """Import a folder of images with annotations of CVAT ("CVAT for images 1.1").

    Args:
        annotations: The XML file.
    """
    _import(import_cvat, images, annotations, config=config or ImportConfig(), as_json=as_json)


@app.command(name="label-studio")
def label_studio(
    images: Images, tasks: Path, /, *, config: Settings = None, as_json: Json = False
) -> None:
    """Import a folder of images with a project of Label Studio, exported as JSON.

    Args:
        tasks: The JSON file.
    """
    _import(import_label_studio, images, tasks, config=config or ImportConfig(), as_json=as_json)


@app.command(name="labelme")
def labelme(
    images: Images, annotations: Path, /, *, config: Settings = None, as_json: Json = False
) -> None:
    """Import a folder of images with the JSON files of labelme.

    Args:
        annotations: Folder of JSON files with the same stems; it may be that of the images.
    """
    _import(import_labelme, images, annotations, config=config or ImportConfig(), as_json=as_json)


@app.command(name="video")
def video(
    path: Annotated[Path, Parameter(help="The video file.")],
    /,
    *,
    config: Annotated[VideoImportConfig | None, Flags] = None,
    as_json: Json = False,
) -> None:
    """Import the frames of a video, with the labels of CVAT or without any."""
    result = import_video(path, config=config, progress=build_progress(as_json=as_json))
    _show(result, as_json=as_json)


def _add_layout(name: LayoutName) -> None:
    layout = LAYOUTS[name]

    def run(
        root: Annotated[Path, Parameter(help="Folder of the dataset as it was unpacked.")],
        /,
        *,
        config: Annotated[DatasetConfig | None, Flags] = None,
        as_json: Json = False,
    ) -> None:
        progress = build_progress(as_json=as_json)
        results = import_layout(name, root, config=config, progress=progress)
        _show_runs(results, as_json=as_json, not_known=layout.not_known)

    app.command(run, name=name, help=f"Import {layout.dataset}, one run for each video or part.")


for layout_name in LAYOUTS:
    _add_layout(layout_name)
