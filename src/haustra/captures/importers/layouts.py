"""Public datasets as they come: each layout by its name, one run for each video or part."""

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from haustra.captures.importers.dataset import (
    DatasetConfig,
    ImportConfig,
    ImportResult,
    as_text,
    import_frames,
    read_size,
)
from haustra.captures.importers.listed import import_listed
from haustra.captures.importers.masks import MaskImportConfig, import_masks
from haustra.captures.importers.paired import import_pairs, read_voc, walk_files
from haustra.captures.importers.records import Annotation, SourceBox, SourceFrame
from haustra.captures.importers.text import read_text
from haustra.captures.reader import slugify
from haustra.captures.schema import SplitName
from haustra.core.errors import HaustraError, name_some
from haustra.core.files import read_json
from haustra.core.images import IMAGE_SUFFIXES, natural_key
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

LayoutName = Literal[
    "kvasir-seg", "hyper-kvasir", "cvc", "etis", "polypgen", "sun-seg", "ldpolypvideo", "real-colon"
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a dataset that becomes one run."""

    name: str
    """Name inside the dataset, such as `c1`; empty if there is one part."""
    group: str | None = None
    """Patient, center or sequence of all its images; None if each image is a group."""
    frame_rate_hz: float | None = None
    split: SplitName | None = None
    """Split that the dataset states."""
    notes: tuple[str, ...] = ()
    folders: tuple[Path, ...]
    """Folders of its images and annotations."""
    run: Callable[..., ImportResult]
    """Imports the part with a config and a progress."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A public dataset."""

    dataset: str
    licence: str
    citation: str
    find_parts: Callable[[Path], list[Part]]
    not_known: str
    """Note on the facts that the dataset does not state."""


def import_layout(
    name: LayoutName,
    root: StrPath,
    *,
    config: DatasetConfig | None = None,
    progress: Progress | None = None,
) -> list[ImportResult]:
    """Import a public dataset as it was unpacked.

    Args:
        name: The dataset.
        root: Its folder.
        config: Place and provenance; name, license and citation are filled in by default.
        progress: Receives the progress.

    Raises:
        HaustraError: The folder does not have the layout, or a part cannot be imported; parts that
            were complete stay.
    """
    root, layout, config = to_path(root), LAYOUTS[name], config or DatasetConfig()
    if not root.is_dir():
        raise HaustraError(f"{root} is not a folder; expected {layout.dataset} as it was unpacked")
    parts = layout.find_parts(root)
    if not parts:
        raise HaustraError(
            f"{root} does not have the layout of {layout.dataset}; see docs/datasets.md for it"
        )
    dataset = config.dataset or layout.dataset
    left_out = _left_out(root, parts=parts)
    results = []
    for part in parts:
        settings = replace(
            config,
            dataset=dataset,
            licence=config.licence or layout.licence,
            citation=config.citation or layout.citation,
            run_id=slugify(f"{config.run_id or dataset} {part.name}"),
            group=config.group or (None if config.group_regex else part.group),
            frame_rate_hz=config.frame_rate_hz or part.frame_rate_hz,
            split=config.split or part.split,
        )
        notes = [layout.not_known, *part.notes, *left_out]
        results.append(part.run(settings, notes=notes, progress=progress))
        left_out = []  # of the whole dataset, so the first run alone names it
    return results


def _left_out(root: Path, *, parts: list[Part]) -> list[str]:
    """Return a note on the images that are in no part, if there are any."""
    taken = {folder.resolve() for part in parts for folder in part.folders}
    num_images: dict[str, int] = {}
    for here, folders, names in os.walk(root):
        if Path(here).resolve() in taken:
            folders.clear()
        elif num := sum(name.lower().endswith(IMAGE_SUFFIXES) for name in names if name[0] != "."):
            num_images[Path(here).relative_to(root).as_posix()] = num
    if not num_images:
        return []
    total, listed = sum(num_images.values()), name_some(list(num_images))
    return [f"{total} image(s) are in no part of the layout, left out: those of {listed}"]


def _folder(root: Path, *names: str) -> Path | None:
    """Return the first folder of these names, in any case, in `root`."""
    found = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    return next((found[name] for name in names if name in found), None)


def _as(kind: type[DatasetConfig], config: DatasetConfig, **changes: Any) -> Any:
    shared = {item.name: getattr(config, item.name) for item in fields(DatasetConfig)}
    return kind(**(shared | changes))


def _masks(images: Path, masks: Path, *, mask_name: str = "{stem}") -> Callable[..., ImportResult]:
    def run(config: DatasetConfig, **rest: Any) -> ImportResult:
        if config.allow_unlabelled and not masks.is_dir():
            return _run_negatives(config, images=images, **rest)
        settings: MaskImportConfig = _as(MaskImportConfig, config, mask_name=mask_name)
        return import_masks(images, masks, config=settings, **rest)

    return run


def _run_negatives(config: DatasetConfig, *, images: Path, **rest: Any) -> ImportResult:
    """Import images of which the dataset says that none shows a polyp."""
    paths = [path for path in walk_files(images) if path.suffix.lower() in IMAGE_SUFFIXES]
    frames = [
        SourceFrame(path=path, name=path.name, annotation=None, source=str(path)) for path in paths
    ]
    return import_frames(
        frames,
        read=lambda _annotation, _size_wh: Annotation(),
        default_name=images.name,
        total=len(frames),
        config=config,
        classes=None,
        **rest,
    )


def _find_masks(root: Path) -> list[Part]:
    """Find a folder of images with one of masks, or `p1.bmp` beside `1.bmp`."""
    root = _folder(root, "segmented-images") or root
    images = _folder(root, "images", "original", "etis-laribpolypdb", "cvc-colondb") or root
    masks = _folder(root, "masks", "ground truth", "groundtruth", "gt") or images
    prefixed = any(
        path.stem.startswith("p") and path.stem[1:].isdigit() for path in masks.iterdir()
    )
    if images == masks and not prefixed:
        return []
    mask_name = "p{stem}" if prefixed else "{stem}"
    return [
        Part(
            name="",
            folders=(images, masks),
            run=_masks(images, masks, mask_name=mask_name),
        )
    ]


def _find_kvasir(root: Path) -> list[Part]:
    """Find masks, or where there are none the file of boxes."""
    root = _folder(root, "segmented-images") or root
    images = _folder(root, "images")
    names = ("kavsir_bboxes.json", "kvasir_bboxes.json", "bounding-boxes.json")
    boxes = next((root / name for name in names if (root / name).is_file()), None)
    if images is None or _folder(root, "masks") or boxes is None:
        return _find_masks(root)
    return [
        Part(name="", folders=(images,), run=partial(_run_kvasir_boxes, images=images, path=boxes))
    ]


def _run_kvasir_boxes(
    config: DatasetConfig, *, images: Path, path: Path, **rest: Any
) -> ImportResult:
    """Import Kvasir-SEG's file of boxes: corners in pixels, by the images' stems."""
    content = read_json(path, what="the boxes of Kvasir-SEG")
    names = {
        as_text(file.stem): file.name
        for file in images.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES
    }
    listed = []
    try:
        for stem, item in content.items():
            boxes = [
                SourceBox(
                    box_px=[box["xmin"], box["ymin"], box["xmax"], box["ymax"]],
                    class_name=box["label"],
                )
                for box in item["bbox"]
            ]
            size_wh = read_size(item["width"], item["height"], source=f"{path}: {stem!r}")
            listed.append(
                (names.get(as_text(stem), stem), Annotation(boxes=boxes, size_wh=size_wh))
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise HaustraError(
            f"{path} is incomplete ({error!r}); expected Kvasir-SEG's boxes"
        ) from None
    return import_listed(images, path, listed=listed, config=_as(ImportConfig, config), **rest)


def _find_polypgen(root: Path) -> list[Part]:
    """Find the centers' single frames, and the sequences with and without polyps."""
    parts = []
    for center in range(1, 7):
        folder = _folder(root, f"data_c{center}")
        images, masks = (
            folder and _folder(folder, f"{kind}_c{center}") for kind in ("images", "masks")
        )
        if images and masks:
            run = _masks(images, masks, mask_name="{stem}_mask")
            name = f"c{center}"
            parts.append(Part(name=name, group=name, folders=(images, masks), run=run))
    sequences = _folder(root, "sequencedata")
    for kind in ("positive", "negativeonly"):
        folder = sequences and _folder(sequences, kind)
        for sequence in _subfolders(folder) if folder else ():
            name = sequence.name.lower()
            images = _folder(sequence, f"images_{name}", "images") or sequence
            masks = _folder(sequence, f"masks_{name}", "masks")
            if kind == "positive" and masks:
                run = _masks(images, masks, mask_name="{stem}_mask")
            elif kind == "negativeonly":
                run = partial(_run_negatives, images=images)
            else:
                continue
            parts.append(Part(name=name, group=name, folders=(sequence,), run=run))
    return parts


def _find_sun_seg(root: Path) -> list[Part]:
    """Find the clips of each split: `Frame/case1_3` with `GT/case1_3`."""
    parts = []
    for frames in sorted(path for path in root.rglob("Frame") if path.is_dir()):
        inside, split = list(frames.parent.relative_to(root).parts), None
        for number, part in enumerate([root.resolve().name, *inside]):
            if found := re.fullmatch("(train|val|test).*dataset", part.lower()):
                # TestEasyDataset/Seen and TestHardDataset/Seen are two folders.
                inside, split = inside[max(number - 1, 0) :], cast("SplitName", found[1])
                break
        for clip in _subfolders(frames):
            name = "-".join([*inside, clip.name])
            folders = (clip, frames.parent / "GT" / clip.name)
            parts.append(
                Part(
                    name=name,
                    group=clip.name.split("_")[0],
                    frame_rate_hz=30.0,
                    split=split,
                    folders=folders,
                    run=_masks(*folders),
                )
            )
    return parts


def _find_ldpolypvideo(root: Path) -> list[Part]:
    """Find the videos: `Images/1` with `Annotations/1`."""
    images, annotations = _folder(root, "images"), _folder(root, "annotations")
    return [
        Part(
            name=video.name,
            group=f"ldpolypvideo-{video.name}",
            frame_rate_hz=30.0,
            folders=(video, annotations / video.name),
            run=partial(
                _run_boxes,
                images=video,
                annotations=annotations / video.name,
                suffixes=(".txt",),
                noun="LDPolypVideo annotation",
                read=_read_ldpolypvideo,
            ),
        )
        for video in (_subfolders(images) if images and annotations else ())
        if annotations
    ]


def _read_ldpolypvideo(path: Path, _size_wh: tuple[int, int]) -> Annotation:
    """Read the number of boxes, then `xmin ymin xmax ymax` of each."""
    try:
        lines = [line for line in read_text(path, what="boxes").splitlines() if line.strip()]
        boxes = [[float(part) for part in line.split()] for line in lines[1:]]
        if len(boxes) != int(lines[0]) or any(len(box) != 4 for box in boxes):
            raise ValueError
    except (ValueError, IndexError):
        raise HaustraError(
            f"{path}: expected the number of boxes, then 'xmin ymin xmax ymax' for each"
        ) from None
    return Annotation(boxes=[SourceBox(box_px=box, class_name="polyp") for box in boxes])


def _find_real_colon(root: Path) -> list[Part]:
    """Find the videos: `001-001_frames` with `001-001_annotations`, and the tables."""
    rates = dict(_read_table(root / "video_info.csv", key="unique_video_name", value="fps"))
    sizes = dict(_read_table(root / "lesion_info.csv", key="unique_object_id", value="size [mm]"))
    parts = []
    for frames in _subfolders(root):
        video = frames.name.removesuffix("_frames")
        annotations = _folder(root, f"{video}_annotations", f"{video}_annotation")
        if video != frames.name and annotations:
            run = partial(
                _run_boxes,
                images=frames,
                annotations=annotations,
                suffixes=(".xml",),
                noun="VOC annotation",
                read=partial(_read_real_colon, sizes_mm=sizes),
            )
            rate = rates.get(video)
            notes = () if rate else (f"not known: frame rate, since video_info.csv lacks {video}",)
            parts.append(
                Part(
                    name=video,
                    group=video,
                    frame_rate_hz=rate,
                    notes=notes,
                    folders=(frames, annotations),
                    run=run,
                )
            )
    return parts


def _read_real_colon(
    path: Path, size_wh: tuple[int, int], *, sizes_mm: dict[str, float]
) -> Annotation:
    annotation = read_voc(path, size_wh, zero_based=True)
    annotation.boxes[:] = [
        replace(box, size_mm=sizes_mm.get(box.lesion_id or "")) for box in annotation.boxes
    ]
    return annotation


def _read_table(path: Path, *, key: str, value: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers above 0 of a column by name; a missing table has none."""
    if not path.is_file():
        return
    for row in csv.DictReader(read_text(path, what="a table").splitlines()):
        try:
            name, number = row[key], float(row[value])
        except (KeyError, TypeError, ValueError):
            continue
        # More cells than columns: a decimal comma may have cut a number in two.
        if 0 < number < float("inf") and not any(row.get(None, ())):
            yield name, number


def _run_boxes(
    config: DatasetConfig, *, images: Path, annotations: Path, **rest: Any
) -> ImportResult:
    return import_pairs(images, annotations, config=config, classes=None, **rest)


def _subfolders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(found, key=lambda path: natural_key(path.name))


LAYOUTS: dict[LayoutName, Layout] = {
    "kvasir-seg": Layout(
        dataset="Kvasir-SEG",
        licence="research and education, see its page",
        citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020",
        find_parts=_find_kvasir,
        not_known="not known: patients; each image is a group",
    ),
    "hyper-kvasir": Layout(
        dataset="HyperKvasir",
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        find_parts=_find_kvasir,
        not_known="not known: patients; each image is a group",
    ),
    "cvc": Layout(
        dataset="CVC",
        licence="research, see its page",
        citation="Bernal et al., WM-DOVA maps for accurate polyp highlighting, CMIG 2015",
        find_parts=_find_masks,
        not_known="not known: sequences, though neighbors look alike; use --group-by similar",
    ),
    "etis": Layout(
        dataset="ETIS-Larib",
        licence="research, see its page",
        citation="Silva et al., Toward embedded detection of polyps, IJCARS 2014",
        find_parts=_find_masks,
        not_known="not known: sequences, though neighbors look alike; use --group-by similar",
    ),
    "polypgen": Layout(
        dataset="PolypGen",
        licence="CC BY 4.0",
        citation="Ali et al., PolypGen, Scientific Data 2023",
        find_parts=_find_polypgen,
        not_known="not known: patients, lesions, frame rate; a center or sequence is a group",
    ),
    "sun-seg": Layout(
        dataset="SUN-SEG",
        licence="research, see its page",
        citation="Ji et al., Video Polyp Segmentation, Machine Intelligence Research 2022",
        find_parts=_find_sun_seg,
        not_known="not known: lesions; a case is a group",
    ),
    "ldpolypvideo": Layout(
        dataset="LDPolypVideo",
        licence="research, see its page",
        citation="Ma et al., LDPolypVideo Benchmark, MICCAI 2021",
        find_parts=_find_ldpolypvideo,
        not_known="not known: patients, lesions, frame rate (30 is assumed); a video is a group",
    ),
    "real-colon": Layout(
        dataset="REAL-Colon",
        licence="CC BY 4.0",
        citation="Biffi et al., REAL-Colon, Scientific Data 2024",
        find_parts=_find_real_colon,
        not_known="not taken: histology and site",
    ),
}
"""Every layout by its name at the command line."""
