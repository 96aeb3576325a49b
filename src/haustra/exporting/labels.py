"""Writing labels in the formats of other tools: COCO, YOLO, Pascal VOC, CVAT and Label Studio.

The boxes come from run folders, or from stored predictions on run folders, which become
pre-annotations. Every written dataset holds its images, so that it can be uploaded as it is.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from haustra.captures.importers.label_studio import LESION_PREFIX
from haustra.captures.importers.listed import UNCONFIRMED
from haustra.captures.reader import Run, read_runs
from haustra.captures.validation import CheckedFrame, FrameProblem, check_frames
from haustra.core.checked import CheckedSettings, ReplacedFolder, Share
from haustra.core.errors import HaustraError, option
from haustra.core.files import building_folder, link_or_copy, read_json
from haustra.core.outputs import check_outputs
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.predictions import Scored, check_scored, read_predictions
from haustra.warehouse.format import SPLIT_NAMES

LabelFormat = Literal["coco", "yolo", "voc", "cvat", "label-studio"]
CLASS_NAME = "polyp"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(CheckedSettings):
    """Settings of `haustra convert`."""

    to: LabelFormat
    """Format of the labels."""
    output_root: ReplacedFolder
    """Folder that receives images and labels."""
    captures: Path | None = None
    """Run folders with the frames of `haustra eval --predictions-out`; for such a file only."""
    min_score: Share = 0.0
    """Lowest score of a predicted box that is written, from 0 to 1."""
    overwrite: bool = False
    """Replace an existing folder."""


@dataclass(frozen=True, kw_only=True)
class ConvertResult:
    """The written dataset."""

    folder: Path
    labels: Path  # the label file, or the folder of label files
    num_images: int
    num_boxes: int
    problems: list[str]  # a line for each frame or box that could not be written


@dataclass(frozen=True, kw_only=True, eq=False)
class _Picture:
    """One image of the dataset and its boxes."""

    image: Path
    name: str  # file name of the image in the dataset
    size_wh: tuple[int, int]
    boxes_px: NDArray[np.float64]  # [N,4] `x0,y0,x1,y1` in pixels
    lesion_ids: Sequence[str | None]
    scores: Sequence[float | None]  # a score for each predicted box, None for each label
    frame_id: int = 0
    run: Run | None = None  # the run folder that it is from
    time_s: float | None = None  # since the run began

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    def above(self, min_score: float) -> "_Picture":
        """Return the picture without predicted boxes of a lower score."""
        kept = [n for n, score in enumerate(self.scores) if score is None or score >= min_score]
        return replace(
            self,
            boxes_px=self.boxes_px[kept],
            lesion_ids=[self.lesion_ids[n] for n in kept],
            scores=[self.scores[n] for n in kept],
        )

    @property
    def polyps(self) -> Iterator[tuple[list[float], str | None, float | None]]:
        """Each box with its lesion id and its score."""
        return zip(self.boxes_px.tolist(), self.lesion_ids, self.scores, strict=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dataset:
    """The images with their boxes."""

    pictures: list[_Picture]
    detector: str | None  # name of the detector that predicted the boxes; None for labels
    problems: list[str]


def _write_coco(folder: Path, dataset: _Dataset) -> str:
    """Write one JSON file; predicted boxes have a `score`, lesions a `track_id`.

    A run in time order is one of its `videos`.
    """
    lesion_ids = sorted({lesion for p in dataset.pictures for lesion in p.lesion_ids if lesion})
    track_ids = {lesion: number for number, lesion in enumerate(lesion_ids, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(dataset.pictures, start=1):
        for (x0, y0, x1, y1), lesion, score in picture.polyps:
            item: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }
            if lesion:
                item |= {"track_id": track_ids[lesion], "attributes": {"lesion_id": lesion}}
            annotations.append(item if score is None else item | {"score": score})
    images: list[dict[str, Any]] = []
    videos: dict[str, dict[str, Any]] = {}
    for image_id, picture in enumerate(dataset.pictures, start=1):
        width, height = picture.size_wh
        images.append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        if (run := picture.run) and (rate := run.manifest.time_order_rate_hz):
            video = {"id": len(videos) + 1, "name": run.run_id, "fps": rate}
            video_id = videos.setdefault(run.run_id, video)["id"]
            images[-1] |= {"video_id": video_id, "frame_id": picture.frame_id}
    value = {
        "info": {"description": f"boxes of {dataset.detector}", "haustra": UNCONFIRMED}
        if dataset.detector is not None
        else {"description": "labels"},
        **({"videos": list(videos.values())} if videos else {}),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": CLASS_NAME}],
    }
    (folder / "annotations.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return "annotations.json"


def _write_yolo(folder: Path, dataset: _Dataset) -> str:
    """Write a text file per image, and data.yaml; the format has neither lesions nor scores."""
    (folder / "labels").mkdir()
    for picture in dataset.pictures:
        lines = []
        for box, _, _ in picture.polyps:
            x0, y0, x1, y1 = np.array(box) / np.tile(picture.size_wh, 2)
            values = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            lines.append(" ".join(["0", *(f"{value:.7g}" for value in values)]) + "\n")
        (folder / "labels" / f"{picture.stem}.txt").write_text("".join(lines), encoding="utf-8")
    lists: dict[str, str] = {}
    for picture in dataset.pictures:
        split = picture.run.manifest.split if picture.run else None
        lists[split or ""] = lists.get(split or "", "") + f"./images/{picture.name}\n"
    text = "train: images  # not split\nval: images\n"
    if "" not in lists:  # every run states its split
        text = "".join(f"{split}: {split}.txt\n" for split in SPLIT_NAMES if split in lists)
        for name, listed in lists.items():
            (folder / f"{name}.txt").write_text(listed, encoding="utf-8")
    (folder / "data.yaml").write_text(f"{text}names:\n  0: {CLASS_NAME}\n", encoding="utf-8")
    return "labels"


def _write_voc(folder: Path, dataset: _Dataset) -> str:
    """Write an XML file per image, with whole pixels counted from 1 as in Pascal VOC."""
    (folder / "annotations").mkdir()
    for picture in dataset.pictures:
        width, height = picture.size_wh
        root = _element("annotation")
        _element("filename", picture.name, into=root)
        size = _element("size", into=root)
        for name, number in (("width", width), ("height", height), ("depth", 3)):
            _element(name, str(number), into=size)
        for (x0, y0, x1, y1), lesion, score in picture.polyps:
            entry = _element("object", into=root)
            _element("name", CLASS_NAME, into=entry)
            _element("difficult", "0", into=entry)
            box = _element("bndbox", into=entry)
            # The first and the last column and row that the box covers, at least half.
            first = [min(round(x0), width - 1), min(round(y0), height - 1)]
            last = [max(round(x1), first[0] + 1), max(round(y1), first[1] + 1)]
            corners = (first[0] + 1, first[1] + 1, *last)
            for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                _element(name, str(value), into=box)
            if score is not None:
                _element("confidence", f"{score:.6g}", into=entry)
            if lesion:
                _element("unique_id", lesion, into=entry)
        _write_xml(root, path=folder / "annotations" / f"{picture.stem}.xml")
    return "annotations"


def _write_cvat(folder: Path, dataset: _Dataset) -> str:
    """Write one XML file in the format that CVAT calls "CVAT for images 1.1"."""
    root = _element("annotations")
    _element("version", "1.1", into=root)
    if dataset.detector is not None:
        _element("haustra", UNCONFIRMED, into=_element("meta", into=root))
    for number, picture in enumerate(dataset.pictures):
        width, height = map(str, picture.size_wh)
        image = _element("image", into=root)
        image.attrib |= {"id": str(number), "name": picture.name, "width": width, "height": height}
        for corners, lesion, score in picture.polyps:
            box = _element("box", into=image)
            source = "manual" if score is None else "auto"
            box.attrib |= {"label": CLASS_NAME, "source": source, "occluded": "0", "z_order": "0"}
            names = ("xtl", "ytl", "xbr", "ybr")
            box.attrib |= {n: f"{value:.2f}" for n, value in zip(names, corners, strict=True)}
            found = {"lesion_id": lesion, "score": None if score is None else f"{score:.4f}"}
            for name, text in found.items():
                if text:
                    _element("attribute", text, into=box).set("name", name)
    _write_xml(root, path=folder / "annotations.xml")
    return "annotations.xml"


def _write_label_studio(folder: Path, dataset: _Dataset) -> str:
    """Write tasks; predicted boxes are `predictions`, which a person then corrects."""
    tasks = []
    for picture in dataset.pictures:
        width, height = picture.size_wh
        regions: list[dict[str, Any]] = []
        for number, (box, lesion, score) in enumerate(picture.polyps):
            x0, y0, x1, y1 = 100 * np.array(box) / (width, height, width, height)
            region: dict[str, Any] = {
                "id": f"box{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": x0,
                    "y": y0,
                    "width": x1 - x0,
                    "height": y1 - y0,
                    "rotation": 0,
                    "rectanglelabels": [CLASS_NAME],
                },
            }
            region |= {"meta": {"text": [f"{LESION_PREFIX}{lesion}"]}} if lesion else {}
            regions.append(region if score is None else region | {"score": score})
        result: dict[str, Any] = {"result": regions}
        if dataset.detector is not None:
            scores = [score for score in picture.scores if score is not None]
            result |= {"model_version": dataset.detector, "score": max(scores, default=0.0)}
        tasks.append(
            {
                "data": {"image": f"/data/local-files/?d=images/{picture.name}"}
                | ({} if picture.time_s is None else {"time_s": picture.time_s}),
                "annotations" if dataset.detector is None else "predictions": [result],
            }
        )
    (folder / "tasks.json").write_text(json.dumps(tasks, indent=1) + "\n", encoding="utf-8")
    return "tasks.json"


_WRITERS: dict[LabelFormat, Callable[[Path, _Dataset], str]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "voc": _write_voc,
    "cvat": _write_cvat,
    "label-studio": _write_label_studio,
}
"""Each writes the labels into a folder and returns the name of the label file or folder."""


def _element(
    tag: str, text: str | None = None, *, into: ElementTree.Element | None = None
) -> ElementTree.Element:
    element = ElementTree.Element(tag) if into is None else ElementTree.SubElement(into, tag)
    element.text = text
    return element


def _write_xml(root: ElementTree.Element, *, path: Path) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _read_captures(
    root: Path, *, boxes_by_frame: dict[str, Scored] | None, progress: Progress
) -> tuple[list[_Picture], list[str]]:
    """Return a picture for each usable frame, and the problems of the others.

    Args:
        boxes_by_frame: Predictions by sample id, which replace the labels; a frame without any is
            left out.
    """
    runs = read_runs(root)
    frames = [frame for run in runs for frame in run.frames]
    if boxes_by_frame is not None:
        frames = [frame for frame in frames if frame.sample_id in boxes_by_frame]
    pictures, run_of = [], {run.run_id: run for run in runs}
    problems = [
        f"{run.run_id}: {len(run.unlabeled)} image(s) without a label file are left out"
        for run in runs
        if run.unlabeled and boxes_by_frame is None
    ]
    for checked in track(
        check_frames(frames), progress=progress, description="convert", total=len(frames)
    ):
        if isinstance(checked, FrameProblem):
            problems.append(checked.reason)
            continue
        problems.extend(checked.box_problems)
        picture = _picture_of(checked, predicted=boxes_by_frame)
        pictures.append(replace(picture, run=run_of[checked.frame.run_id]))
    return pictures, problems


def _picture_of(checked: CheckedFrame, *, predicted: dict[str, Scored] | None) -> _Picture:
    frame, boxes_px = checked.frame, checked.boxes_px
    lesion_ids: list[str | None] = [label.lesion_id for label in checked.labels]
    scores: list[float | None] = [label.score for label in checked.labels]
    if predicted is not None:
        boxes_px, found = predicted[frame.sample_id]
        lesion_ids, scores = [None] * len(found), found.tolist()
    if frame.image_path is None or frame.label is None:
        raise AssertionError("a usable frame has an image and a label")
    return _Picture(
        image=frame.image_path,
        name=f"{frame.run_id}_{frame.name}{frame.image_path.suffix}",
        size_wh=checked.size_wh,
        boxes_px=boxes_px,
        lesion_ids=lesion_ids,
        scores=scores,
        frame_id=frame.label.frame_id,
        time_s=frame.label.sim_time,
    )


def _read_inferred(path: Path, *, entries: list[Any]) -> list[_Picture]:
    """Return the pictures of `haustra infer --json`; names of ranked images begin with the rank.

    Labeling tools show images by name, whatever the order in the file.
    """
    pictures = []
    for number, entry in enumerate(entries):
        place = f"{path}: image {number}"
        boxes_px, scores = check_scored(entry["boxes_px"], entry["scores"], place=place)
        image = Path(entry["image"])
        if not image.is_file():
            raise HaustraError(f"{place}: {image} does not exist; run this where infer was run")
        width, height = entry["image_size_wh"]
        pictures.append(
            _Picture(
                image=image,
                name=f"{entry['rank']:05d}_{image.name}" if "rank" in entry else image.name,
                size_wh=(width, height),
                boxes_px=boxes_px,
                lesion_ids=[None] * len(scores),
                scores=scores.tolist(),
            )
        )
    return pictures


def _read_source(source: Path, *, captures: Path | None, progress: Progress) -> _Dataset:
    """Return the pictures of any source."""
    if source.is_dir():
        if captures is not None:
            raise HaustraError(
                f"{option('captures', captures)}: {source} holds its own frames; expected "
                f"{option('captures')} with a file of predictions only"
            )
        pictures, problems = _read_captures(source, boxes_by_frame=None, progress=progress)
        is_predicted = any(score is not None for picture in pictures for score in picture.scores)
        detector = "haustra" if is_predicted else None
        return _Dataset(pictures=pictures, detector=detector, problems=problems)
    value = read_json(source, what="a run folder, or predictions of `haustra eval` or `infer`")
    if isinstance(value, dict) and "heuristic" in value and "images" in value:
        try:
            inferred = _read_inferred(source, entries=value["images"])
            return _Dataset(pictures=inferred, detector=str(value["detector"]), problems=[])
        except (KeyError, TypeError, ValueError) as error:
            raise HaustraError(f"{source} is damaged: {error!r}") from None
    stored = read_predictions(source)
    if captures is None:
        raise HaustraError(
            f"{source} names frames of run folders; pass their folder with {option('captures')}"
        )
    pictures, problems = _read_captures(
        captures, boxes_by_frame=stored.boxes_by_frame, progress=progress
    )
    absent = len(stored.boxes_by_frame) - len(pictures)
    if absent:
        problems.append(f"{absent} predicted frame(s) have no usable image in {captures}")
    return _Dataset(pictures=pictures, detector=stored.caption, problems=problems)


def convert_labels(
    source: StrPath, *, config: ConvertConfig, progress: Progress | None = None
) -> ConvertResult:
    """Write labels or predictions, with their images, in another tool's format.

    Args:
        source: A run folder, a folder of run folders, a file of `haustra eval --predictions-out`,
            or the output of `haustra infer --json`.

    Raises:
        HaustraError: No frame is usable, two images have the same name, or the output exists.
    """
    source = to_path(source)
    check_outputs(config, source=source)
    dataset = _read_source(source, captures=config.captures, progress=progress or SilentProgress())
    if not dataset.pictures:
        reason = dataset.problems[0] if dataset.problems else "it has no frames"
        raise HaustraError(f"{source}: {reason}")
    stems = Counter(picture.stem.casefold() for picture in dataset.pictures)
    stem, most = stems.most_common(1)[0]
    if most > 1:
        raise HaustraError(f"{source}: {most} images are named {stem!r}; expected different names")
    pictures = [picture.above(config.min_score) for picture in dataset.pictures]
    with building_folder(config.output_root, overwrite=config.overwrite) as folder:
        (folder / "images").mkdir()
        for picture in pictures:
            link_or_copy(picture.image, target=folder / "images" / picture.name)
        labels = _WRITERS[config.to](folder, replace(dataset, pictures=pictures))
    return ConvertResult(
        folder=config.output_root,
        labels=config.output_root / labels,
        num_images=len(pictures),
        num_boxes=sum(len(picture.scores) for picture in pictures),
        problems=dataset.problems,
    )
