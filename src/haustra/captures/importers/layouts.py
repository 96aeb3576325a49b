"""Public datasets as they come: each layout by its name, one run for each video or part."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from haustra.captures.importers.dataset import DatasetConfig, ImportResult, import_run, read_size
from haustra.captures.importers.layout_parts import (
    Part,
    Run,
    find_folder,
    image_stems,
    read_rows,
    run_listed,
    run_negatives,
    run_pairs,
    subfolders,
)
from haustra.captures.importers.records import Annotation, SourceBox
from haustra.captures.importers.text import read_text
from haustra.captures.importers.video_layouts import (
    find_ldpolypvideo,
    find_real_colon,
    find_sun,
    find_sun_seg,
)
from haustra.captures.reader import slugify
from haustra.core.errors import HaustraError, name_some
from haustra.core.files import read_json
from haustra.core.images import IMAGE_SUFFIXES, natural_key
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress

LayoutName = Literal[
    "kvasir-seg",
    "hyper-kvasir",
    "cvc",
    "etis",
    "polypgen",
    "sun",
    "sun-seg",
    "ldpolypvideo",
    "real-colon",
]
MASK_NAMES = ("p{stem}", "{stem}_Polyp", "{stem}_polyp", "{stem}_mask")
"""Names of masks in the copies of CVC and ETIS besides those of the images."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A public dataset."""

    dataset: str
    citation: str
    find_parts: Callable[[Path], list[Part]]
    not_known: str
    """Note on the facts that the dataset does not state."""
    licence: str = "research, see its page"


def import_layout(
    name: LayoutName,
    root: StrPath,
    *,
    config: DatasetConfig | None = None,
    progress: Progress | None = None,
) -> list[ImportResult]:
    """Import a public dataset as it was unpacked.

    Its folder may be inside one that holds nothing else. Name, license and citation are filled in
    where the settings give none.

    Raises:
        HaustraError: The folder does not have the layout, or a part cannot be imported; parts that
            were complete stay.
    """
    root, layout, config = to_path(root), LAYOUTS[name], config or DatasetConfig()
    if not root.is_dir():
        raise HaustraError(f"{root} is not a folder; expected {layout.dataset} as it was unpacked")
    inner, parts = root, layout.find_parts(root)
    while not parts and len(found := subfolders(inner)) == 1:
        inner, parts = found[0], layout.find_parts(found[0])
    if not parts:
        raise HaustraError(
            f"{root} does not have the layout of {layout.dataset}; see docs/datasets.md for it"
        )
    dataset = config.dataset or layout.dataset
    run_ids = [slugify(f"{config.run_id or dataset} {part.name}") for part in parts]
    if twice := [run_id for run_id, count in Counter(run_ids).items() if count > 1]:
        raise HaustraError(
            f"{root} holds these parts twice: {name_some(twice)}; expected one copy of each"
        )
    left_out = _left_out(inner, parts=parts)
    results = []
    for part, run_id in zip(parts, run_ids, strict=True):
        settings = replace(
            config,
            dataset=dataset,
            licence=config.licence or layout.licence,
            citation=config.citation or layout.citation,
            run_id=run_id,
            group=config.group or (None if config.group_regex else part.group),
            frame_rate_hz=config.frame_rate_hz or part.frame_rate_hz,
            split=config.split or part.split,
        )
        run = part.run.find(settings)
        run = replace(run, notes=[layout.not_known, *part.notes, *left_out, *run.notes])
        results.append(
            import_run(
                run, read=part.run.read, default_name=name, config=settings, progress=progress
            )
        )
        left_out = []  # of the whole dataset, so the first run alone names it
    return results


def _left_out(root: Path, *, parts: list[Part]) -> list[str]:
    """Return a note on the images that are in no part, if there are any."""
    taken = {folder.resolve() for part in parts for folder in part.run.folders}
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


def _image_folders(root: Path) -> tuple[Path, Path]:
    """Return the folders of images and of masks, which may be one."""
    images = find_folder(root, "images", "image", "original", "etis-laribpolypdb", "cvc-colondb")
    masks = find_folder(root, "masks", "mask", "ground truth", "groundtruth", "gt")
    return images or root, masks or images or root


def _mask_name(images: Path, masks: Path) -> str | None:
    """Return the name of a mask with `{stem}` for the image's; None where no image has one."""
    found = set(image_stems(masks))
    for stem in image_stems(images):
        for name in MASK_NAMES:
            if name.replace("{stem}", stem) in found:
                return name
    return None if images == masks else "{stem}"


def _find_masks(root: Path) -> list[Part]:
    """Find a folder of images with one of masks, or `p1.tif` beside `1.tif`."""
    images, masks = _image_folders(find_folder(root, "segmented-images") or root)
    mask_name = _mask_name(images, masks)
    return [Part(name="", run=run_pairs(images, masks, file_name=mask_name))] if mask_name else []


def _find_cvc(root: Path) -> list[Part]:
    """Find CVC-ClinicDB, CVC-ColonDB or CVC-VideoClinicDB: a part for each known sequence."""
    images, masks = _image_folders(find_folder(root, "png", "tif") or root)
    parts, notes = [], []
    for video in (folder for folder in subfolders(images) if folder.name.isdecimal()):
        own = video if masks == images else masks / video.name
        name = (_mask_name(video, own) if own.is_dir() else None) or "{stem}_mask"
        run = run_pairs(video, own, file_name=name)
        parts.append(Part(name=video.name, group=f"cvc-{video.name}", run=run))
    mask_name = None if parts else _mask_name(images, masks)
    if mask_name is None:
        return parts
    stated = {
        Path(row["png_image_path"]).stem: row["sequence_id"]
        for row in read_rows(root / "metadata.csv")
        if row.get("png_image_path") and row.get("sequence_id")
    }

    def sequence_of(stem: str) -> str | None:
        """Return None for the `s1` and `c1` of CVC-ColonDB, which are no images."""
        if images == masks and re.fullmatch(r"[sc]\d+", stem):
            return None
        found = re.fullmatch(r"(\d+)[-_]\d+(_polyp|_mask)?", stem.lower())
        return stated.get(stem, found[1] if found else "")

    sequences = [sequence_of(stem) for stem in image_stems(images)]
    if extra := sequences.count(None):
        notes.append(f"{extra} file(s) s1, c1 and so on, of regions and contours: not taken")
    for sequence in sorted({name for name in sequences if name is not None}, key=natural_key):
        run = run_pairs(
            images,
            masks,
            file_name=mask_name,
            keep=lambda stem, sequence=sequence: sequence_of(stem) == sequence,
        )
        group = f"cvc-{sequence}" if sequence else None
        parts.append(Part(name=sequence, group=group, notes=() if parts else tuple(notes), run=run))
    return parts


def _find_kvasir(root: Path) -> list[Part]:
    """Find masks, or where there are none the file of boxes."""
    inside = find_folder(root, "segmented-images") or root
    images = find_folder(inside, "images")
    names = ("kavsir_bboxes.json", "kvasir_bboxes.json", "bounding-boxes.json")
    path = next((inside / name for name in names if (inside / name).is_file()), None)
    if images is None or path is None or find_folder(inside, "masks"):
        return _find_masks(root)
    return [Part(name="", run=run_listed(images, path, boxes_of=_read_kvasir_boxes(path)))]


def _read_kvasir_boxes(path: Path) -> dict[str, Annotation]:
    """Read Kvasir-SEG's file of boxes: corners in pixels, by the images' stems."""
    listed = {}
    try:
        for stem, item in read_json(path, what="the boxes of Kvasir-SEG").items():
            boxes = [
                SourceBox(
                    box_px=[box["xmin"], box["ymin"], box["xmax"], box["ymax"]],
                    class_name=box["label"],
                )
                for box in item["bbox"]
            ]
            size_wh = read_size(item["width"], item["height"], source=f"{path}: {stem!r}")
            listed[stem] = Annotation(boxes=boxes, size_wh=size_wh)
    except (KeyError, TypeError, AttributeError) as error:
        raise HaustraError(
            f"{path} is incomplete ({error!r}); expected Kvasir-SEG's boxes"
        ) from None
    return listed


def _find_polypgen(root: Path) -> list[Part]:
    """Find the centers' single frames, and the sequences with and without polyps."""
    parts = []
    for folder in subfolders(root):
        name = folder.name.lower().removeprefix("data_")
        is_center = re.fullmatch(r"data_c\d", folder.name.lower())
        if is_center and (run := _polypgen_run(folder, name=name)):
            parts.append(Part(name=name, group=name, run=run))
    sequences = find_folder(root, "sequencedata")
    for kind in ("positive", "negativeonly"):
        inside = sequences and find_folder(sequences, kind)
        for folder in subfolders(inside) if inside else ():
            name = folder.name.lower()
            images = find_folder(folder, f"images_{name}", "images") or folder
            run = run_negatives(images) if kind != "positive" else _polypgen_run(folder, name=name)
            if run:
                parts.append(Part(name=name, group=name, run=run))
    return parts


def _polypgen_run(folder: Path, *, name: str) -> Run | None:
    """Return the import with the masks of a folder, or with its boxes where it has no masks."""
    images = find_folder(folder, f"images_{name}", "images") or folder
    masks = find_folder(folder, f"masks_{name}", "masks")
    boxes = find_folder(folder, f"bbox_{name}", "bbox")
    if masks:
        return run_pairs(images, masks, file_name="{stem}_mask")
    if boxes is None:
        return None
    ends = any(path.stem.endswith("_mask") for path in boxes.iterdir())
    return run_pairs(
        images,
        boxes,
        suffixes=(".txt",),
        noun="file of boxes",
        read=_read_polypgen,
        file_name="{stem}_mask" if ends else "{stem}",
    )


def _read_polypgen(path: Path, _size_wh: tuple[int, int]) -> Annotation:
    """Read a line `polyp xmin ymin xmax ymax` for each box; an empty file is a negative."""
    annotation = Annotation()
    for line in read_text(path, what="boxes of PolypGen").splitlines():
        name, *box = line.split() or ("",)
        try:
            box_px = [float(side) for side in box]
        except ValueError:
            box_px = []
        if name and len(box_px) != 4:
            raise HaustraError(f"{path}: {line!r:.80}: expected 'polyp xmin ymin xmax ymax'")
        if name:
            annotation.boxes.append(SourceBox(box_px=box_px, class_name=name))
    return annotation


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
        citation="Bernal et al., WM-DOVA maps for accurate polyp highlighting, CMIG 2015",
        find_parts=_find_cvc,
        not_known="not known: patients, frame rate; where neither names nor metadata.csv give the "
        "sequences, use --group-by similar, since neighbors look alike",
    ),
    "etis": Layout(
        dataset="ETIS-Larib",
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
    "sun": Layout(
        dataset="SUN",
        citation="Misawa et al., Development of a computer-aided detection system for colonoscopy, "
        "GIE 2021",
        find_parts=find_sun,
        not_known="not known: patients; pauses between the clips of a case; a case is a group",
    ),
    "sun-seg": Layout(
        dataset="SUN-SEG",
        citation="Ji et al., Video Polyp Segmentation, Machine Intelligence Research 2022",
        find_parts=find_sun_seg,
        not_known="not known: patients; a case is a group",
    ),
    "ldpolypvideo": Layout(
        dataset="LDPolypVideo",
        citation="Ma et al., LDPolypVideo Benchmark, MICCAI 2021",
        find_parts=find_ldpolypvideo,
        not_known="not known: patients, lesions, frame rate (30 is assumed); a video is a group",
    ),
    "real-colon": Layout(
        dataset="REAL-Colon",
        licence="CC BY 4.0",
        citation="Biffi et al., REAL-Colon, Scientific Data 2024",
        find_parts=find_real_colon,
        not_known="not known: Paris class; a video is a group",
    ),
}
"""Every layout by its name at the command line."""
