"""labelme: a JSON file for each image."""

import base64
import re
from pathlib import Path

from haustra.captures.importers.dataset import ImportConfig, ImportResult, as_text, read_size
from haustra.captures.importers.paired import import_pairs
from haustra.captures.importers.records import Annotation, SourceBox
from haustra.core.errors import HaustraError
from haustra.core.files import read_json
from haustra.core.images import check_image
from haustra.core.paths import StrPath
from haustra.core.progress import Progress


def import_labelme(
    images: StrPath, annotations: StrPath, *, config: ImportConfig, progress: Progress | None = None
) -> ImportResult:
    """Import a folder of images with a folder of labelme's JSON files; both may be one folder."""
    return import_pairs(
        images,
        annotations,
        suffixes=(".json",),
        noun="labelme file",
        read=_read_labelme,
        config=config,
        progress=progress,
    )


def _read_labelme(path: Path, size_wh: tuple[int, int]) -> Annotation:
    content = read_json(path, what="a file of labelme")
    try:
        size = content["imageWidth"], content["imageHeight"]
        annotation = Annotation(size_wh=read_size(*size, source=str(path)))
        if content.get("imageData"):  # labelme draws on this copy of the image
            data = base64.b64decode(content["imageData"])
            drawn_wh = check_image(data, name=f"the imageData of {path}").size_wh
            if drawn_wh != size_wh:
                raise HaustraError(
                    f"{path} was drawn on an imageData of {drawn_wh[0]}x{drawn_wh[1]}, but its "
                    f"image is {size_wh[0]}x{size_wh[1]}; expected the same size"
                )
        name = re.split(r"[/\\]", content["imagePath"])[-1]
        if as_text(Path(name).stem) != as_text(path.stem):
            annotation.hints.append("file whose imagePath is another one")
        for shape in content["shapes"]:
            kind = shape.get("shape_type") or "polygon"
            if kind not in ("rectangle", "polygon"):
                annotation.rejected.append(f"{kind} of labelme; expected a rectangle or polygon")
                continue
            points = shape["points"]
            if not points or any(len(point) != 2 for point in points):
                annotation.rejected.append(f"{kind} of points {points!r:.60}; expected [x, y] each")
                continue
            xs, ys = zip(*points, strict=True)
            box_px = [min(xs), min(ys), max(xs), max(ys)]
            annotation.boxes.append(SourceBox(box_px=box_px, class_name=shape["label"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HaustraError(
            f"{path} is incomplete ({error!r}); expected a file of labelme"
        ) from None
    return annotation
