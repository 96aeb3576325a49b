"""Public datasets of videos: SUN, SUN-SEG, LDPolypVideo and REAL-Colon."""

import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from haustra.captures.importers.dataset import read_size
from haustra.captures.importers.layout_parts import (
    Part,
    add_facts,
    all_folders,
    find_folder,
    place_of,
    read_number,
    read_rows,
    run_listed,
    run_negatives,
    run_pairs,
    subfolders,
)
from haustra.captures.importers.masks import read_mask
from haustra.captures.importers.paired import read_voc
from haustra.captures.importers.records import Annotation, Read, SourceBox
from haustra.captures.importers.text import read_text
from haustra.core.boxes import iou_matrix
from haustra.core.errors import HaustraError
from haustra.core.files import read_json

Facts = dict[str, dict[str, Any]]
"""Fields of `PolypTruth` by lesion, or by the stem of an image."""
_Listed = dict[Path, tuple[Path, dict[str, Annotation]]]
"""File that lists the boxes, and the boxes by the stem of their image, for each clip."""
CASES_FILE = "INFO_POSITIVE_CASES.md"
"""Table of the cases of SUN in the repository GewelsJI/VPS."""
SITES = {
    "C": "cecum",
    "A": "ascending colon",
    "T": "transverse colon",
    "D": "descending colon",
    "S": "sigmoid colon",
    "R": "rectum",
}
CORNERS: dict[str, Callable[[float, float, float, float], list[float]]] = {
    "ymin,xmin,width,height": lambda y, x, width, height: [x, y, x + width, y + height],
    "xmin,ymin,width,height": lambda x, y, width, height: [x, y, x + width, y + height],
    "xmin,ymin,xmax,ymax": lambda x0, y0, x1, y1: [x0, y0, x1, y1],
}
"""Corners in each order that SUN-SEG's boxes may have; the first is that of published readers."""
MOST_CHECKED = 50
"""Number of masks that decide the order."""


def _read_cases(root: Path) -> Facts:
    """Read what the table of SUN's cases states of each lesion, if it is in the folder."""
    facts: Facts = {}
    if (path := root / CASES_FILE).is_file():
        for line in read_text(path, what="the table of SUN's cases").splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) == 7 and (case := re.fullmatch(r"(\d+)(_\d+)?", cells[0])):
                shape, size, site, histology = cells[3:]
                facts[f"case{case[1]}"] = {
                    "size_mm": read_number(size.removesuffix("mm")),  # `15mm-` is at least 15
                    "paris_class": f"0-{shape}",
                    "site": SITES.get(site, site),
                    "histology": histology,
                }
    return facts


def find_sun(root: Path) -> list[Part]:
    """Find the cases of SUN: positive ones have `annotation_txt/case1.txt`, negative ones a name.

    Raises:
        HaustraError: A case is neither, or its annotations are malformed.
    """
    folders, facts = all_folders(root), _read_cases(root)
    cases = [folder for folder in folders if re.fullmatch(r"case\d+", folder.name.lower())]
    files = {
        path.stem.lower(): path
        for folder in folders
        if folder.name.lower() == "annotation_txt"
        for path in folder.glob("*.txt")
    }
    positive, negative = [], []
    for folder in cases:
        names = [root.resolve().name, *folder.relative_to(root).parts]
        kinds = [k for name in names for k in ("positive", "negative") if k in name.lower()]
        case = folder.name.lower()
        if kinds and kinds[-1] == "negative":
            name = f"negative-{case}"
            run = run_negatives(folder)
            negative.append(Part(name=name, group=name, frame_rate_hz=30.0, run=run))
        elif case in files:
            boxes_of = _read_sun(files[case])
            for annotation in boxes_of.values():
                add_facts(annotation, facts, lesion_id=case)
            run = run_listed(folder, files[case], boxes_of=boxes_of)
            positive.append(Part(name=case, group=case, frame_rate_hz=30.0, run=run))
        else:
            raise HaustraError(
                f"{folder} has no annotation_txt/{case}.txt; expected that file in {root}, or a "
                "folder with 'negative' in its name around the cases without polyps"
            )
    return positive + negative


def _read_sun(path: Path) -> dict[str, Annotation]:
    """Read lines `image.jpg xmin,ymin,xmax,ymax,class`, some with several boxes, by image."""
    boxes_of: dict[str, Annotation] = {}
    for number, line in enumerate(read_text(path, what="boxes of SUN").splitlines(), start=1):
        if not line.strip():
            continue
        name, *texts = line.split()
        annotation = boxes_of.setdefault(name, Annotation())
        try:
            boxes = [[float(side) for side in text.split(",")] for text in texts]
            if not boxes or any(len(box) != 5 or box[4] not in (0, 1) for box in boxes):
                raise ValueError
        except ValueError:
            raise HaustraError(
                f"{path}, line {number}: {line!r:.160}: expected 'image.jpg "
                "xmin,ymin,xmax,ymax,class', with the class 0 for a polyp or 1 for none"
            ) from None
        for *box_px, class_id in boxes:
            if class_id == 0:
                annotation.boxes.append(SourceBox(box_px=box_px, class_name="polyp"))
            else:
                annotation.hints.append("frame of class 1, which shows no polyp")
    return boxes_of


def find_sun_seg(root: Path) -> list[Part]:
    """Find the clips of each split: `Frame/case1_3` with `GT/case1_3`, or with listed boxes."""
    folders, facts = all_folders(root), _read_cases(root)
    for folder in folders:
        if (path := folder / "classification.txt").is_file():
            for line in read_text(path, what="classes of SUN-SEG").splitlines():
                image, _, name = line.strip().partition("\t")
                facts[Path(image.strip()).stem] = {"histology": name.strip()}
    clips = [clip for f in folders if f.name.lower() == "frame" for clip in subfolders(f)]
    masks_of = {
        clip: (find_folder(clip.parent.parent, "gt") or clip.parent.parent / "GT") / clip.name
        for clip in clips
    }
    listed: _Listed = {}
    note = ""
    if not all(masks.is_dir() for masks in masks_of.values()):
        listed = _read_lists(clips, root=root)
        note = _set_corners(listed, masks_of=masks_of)
    parts = []
    for clip, masks in masks_of.items():
        inside, split = place_of(clip.parent.parent, root=root)
        case = clip.name.split("_")[0].lower()
        notes: tuple[str, ...] = ()
        run = run_pairs(clip, masks, read=_with_facts(read_mask, facts=facts, lesion_id=case))
        if clip in listed and not masks.is_dir():
            path, boxes_of = listed[clip]
            for stem, annotation in boxes_of.items():
                add_facts(annotation, facts, lesion_id=case, image=stem)
            run, notes = run_listed(clip, path, boxes_of=boxes_of), (note,)
        name = "-".join([*inside, clip.name])
        parts.append(
            Part(name=name, group=case, frame_rate_hz=30.0, split=split, notes=notes, run=run)
        )
    return parts


def _with_facts(read: Read, *, facts: Facts, lesion_id: str | None = None) -> Read:
    """Return `read` with what the dataset states of each box."""

    def read_more(path: Path, size_wh: tuple[int, int]) -> Annotation:
        annotation = read(path, size_wh)
        return add_facts(annotation, facts, lesion_id=lesion_id, image=path.stem)

    return read_more


def _read_lists(clips: list[Path], *, root: Path) -> _Listed:
    """Return the boxes of the clips whose split, or the folder around it, lists some."""
    read: dict[Path, dict[str, dict[str, Annotation]]] = {}
    listed: _Listed = {}
    for clip in clips:
        split = clip.parent.parent
        folders = [split] if split == root else [split, split.parent]
        places = [inside for folder in folders for inside in (folder, folder / "Detection")]
        paths = (place / "bbox_annotation.json" for place in places)
        if path := next((path for path in paths if path.is_file()), None):
            read[path] = read.get(path) or _read_list(path)
            if clip.name in read[path]:
                listed[clip] = (path, read[path][clip.name])
    return listed


def _read_list(path: Path) -> dict[str, dict[str, Annotation]]:
    """Return the boxes of each image by clip and by the image's stem, with four numbers each."""
    content = read_json(path, what="boxes of SUN-SEG")
    boxes_of: dict[str, dict[str, Annotation]] = {}
    try:
        by_id = {}
        for item in content["images"]:
            size_wh = read_size(
                item.get("width"), item.get("height"), source=f"{path}: {item['id']!r}"
            )
            annotation = by_id[item["id"]] = Annotation(size_wh=size_wh)
            boxes_of.setdefault(item["case_name"], {})[Path(item["file_name"]).stem] = annotation
        for item in content.get("annotations", content.get("annotation")):
            own = by_id[item.get("image_id", item["id"])]
            box_px = [float(side) for side in item["bbox"]]
            if len(box_px) != 4:
                raise ValueError(box_px)
            own.boxes.append(SourceBox(box_px=box_px, class_name="polyp"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HaustraError(
            f"{path} is incomplete ({error!r}); expected SUN-SEG's 'images' with id, case_name, "
            "file_name, width and height, and 'annotation' with the same id and a bbox"
        ) from None
    return boxes_of


def _set_corners(listed: _Listed, *, masks_of: Mapping[Path, Path]) -> str:
    """Turn the boxes into corners, and return a note on the order of numbers that they had.

    The documentation of SUN-SEG gives another order than its own example has. So the order is the
    one that fits the masks best, then the one with the most boxes inside their images.

    Raises:
        HaustraError: There are masks, and no order fits one.
    """
    with_masks = (
        (annotation.boxes[0].box_px, mask.boxes[0].box_px)
        for clip, (_, boxes_of) in listed.items()
        for stem, annotation in boxes_of.items()
        if len(annotation.boxes) == 1
        and (path := masks_of[clip] / f"{stem}.png").is_file()
        and len((mask := read_mask(path, annotation.size_wh)).boxes) == 1
    )
    checked = list(islice(with_masks, MOST_CHECKED))
    images = [image for _, boxes_of in listed.values() for image in boxes_of.values()]

    def overlaps(order: str) -> list[float]:
        pairs = [np.array([[CORNERS[order](*box)], [mask_px]]) for box, mask_px in checked]
        return [float(iou_matrix(own, mask)[0, 0]) for own, mask in pairs]

    def num_inside(order: str) -> int:
        corners = [(CORNERS[order](*box.box_px), im.size_wh) for im in images for box in im.boxes]
        return sum(
            0 <= x0 < x1 <= width + 1 and 0 <= y0 < y1 <= height + 1
            for (x0, y0, x1, y1), (width, height) in corners
        )

    order = max(CORNERS, key=lambda order: (sum(overlaps(order)), num_inside(order)))
    num_fitting = sum(overlap > 0.5 for overlap in overlaps(order))
    if checked and not num_fitting:
        raise HaustraError(
            f"{next(iter(listed.values()))[0]}: no box overlaps the mask of its image in any of "
            f"the orders {', '.join(CORNERS)}; expected boxes of these images"
        )
    for image in images:
        image.boxes[:] = [
            SourceBox(box_px=CORNERS[order](*box.box_px), class_name=box.class_name)
            for box in image.boxes
        ]
    evidence = f"as {num_fitting} of {len(checked)} masks of other clips show"
    if not checked:
        evidence = (
            f"in which {num_inside(order)} are inside their images; no mask was there to check it"
        )
    return f"boxes of bbox_annotation.json are read as {order}, {evidence}"


def find_ldpolypvideo(root: Path) -> list[Part]:
    """Find the videos: `Images/1` with `Annotations/1`, also inside `TrainValid` and `Test`."""
    parts = []
    for images in (folder for folder in all_folders(root) if folder.name.lower() == "images"):
        annotations = find_folder(images.parent, "annotations")
        inside, split = place_of(images.parent, root=root)
        if annotations is None:
            continue
        for video in subfolders(images):
            name = "-".join([*inside, video.name])
            run = run_pairs(
                video,
                annotations / video.name,
                suffixes=(".txt",),
                noun="LDPolypVideo annotation",
                read=_read_ldpolypvideo,
            )
            group = f"ldpolypvideo-{name}"
            parts.append(Part(name=name, group=group, frame_rate_hz=30.0, split=split, run=run))
    return parts


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


def find_real_colon(root: Path) -> list[Part]:
    """Find the videos: `001-001_frames` with `001-001_annotations`, and the tables."""
    rates = {
        row.get("unique_video_name", ""): read_number(row.get("fps", ""))
        for row in read_rows(root / "video_info.csv")
    }
    facts: Facts = {
        row.get("unique_object_id", ""): {
            "size_mm": read_number(row.get("size [mm]", "")),
            "site": row.get("site") or None,
            "histology": row.get("histology_class") or row.get("histology_extended") or None,
        }
        for row in read_rows(root / "lesion_info.csv")
    }
    no_polyps = [name for name, stated in facts.items() if stated["histology"] == "NO POLYP"]
    read = _with_facts(_read_real_colon, facts=facts)
    parts = []
    for frames in subfolders(root):
        video = frames.name.removesuffix("_frames")
        annotations = find_folder(root, f"{video}_annotations", f"{video}_annotation")
        if video != frames.name and annotations:
            run = run_pairs(
                frames, annotations, suffixes=(".xml",), noun="VOC annotation", read=read
            )
            rate = rates.get(video)
            notes = [f"not known: frame rate, since video_info.csv lacks {video}"] * (not rate)
            if others := [name for name in no_polyps if name.startswith(f"{video}_")]:
                notes.append(f"no polyps by their histology, but kept: {', '.join(others)}")
            parts.append(
                Part(name=video, group=video, frame_rate_hz=rate, notes=tuple(notes), run=run)
            )
    return parts


def _read_real_colon(path: Path, size_wh: tuple[int, int]) -> Annotation:
    return read_voc(path, size_wh, zero_based=True)
