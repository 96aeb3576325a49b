"""The two JSON files of a run folder as pydantic models, which also read CortenForge's spellings.

Only the shape of a file is checked here. `haustra.captures.validation` decides, box by box, which
boxes are usable, since that depends on the image.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from haustra.core.errors import HaustraError
from haustra.core.files import read_json

SCHEMA_VERSION = 1

Model = TypeVar("Model", bound=BaseModel)


def _schema_version(value: object) -> object:
    """Accept 1, "1" and "V1"."""
    return {"1": 1, "V1": 1, "v1": 1}.get(value, value) if isinstance(value, str) else value


SchemaVersion = Annotated[Literal[1], BeforeValidator(_schema_version)]
SplitName = Literal["train", "val", "test"]
OTHER_SPLIT_NAMES = {"valid": "val", "validation": "val", "dev": "val"}
StatedSplit = Annotated[
    SplitName, BeforeValidator(lambda v: OTHER_SPLIT_NAMES.get(v, v) if isinstance(v, str) else v)
]


class PolypLabel(BaseModel):
    """One polyp on one frame. At least one of `bbox_px` and `bbox_norm` gives a box."""

    lesion_id: str | None = None
    center_world: Any = None
    """`x,y,z` of the lesion in the scene in mm; not checked, since nothing here uses it."""
    bbox_px: Any = None
    """`x0,y0,x1,y1` in pixels of the image."""
    bbox_norm: Any = None
    """`x0,y0,x1,y1` in 0..1 of the image."""
    visible_fraction: float | None = None
    """Share of the polyp's pixels in the image that nothing hides, 0 to 1."""
    size_mm: float | None = None
    paris_class: str | None = None
    histology: str | None = None
    site: str | None = None
    """Part of the colon. This and the histology are as the dataset states them; most state none."""
    score: float | None = Field(default=None, ge=0, le=1)
    """Score of a detection that was written as a label; None for ground truth."""


class FrameLabel(BaseModel):
    """`labels/frame_00000.json`."""

    schema_version: SchemaVersion = 1
    frame_id: int = Field(ge=0)
    sim_time: float | None = None
    unix_time: float | None = None
    image: str
    """Path of the image inside the run folder, with forward slashes."""
    image_present: bool = True
    camera_active: bool = True
    label_seed: int | None = Field(
        default=None, validation_alias=AliasChoices("label_seed", "polyp_seed")
    )
    source: str | None = None
    source_name: str | None = None
    """Name of the frame before the import."""
    group_id: str | None = None
    labels: list[PolypLabel] = Field(validation_alias=AliasChoices("labels", "polyp_labels"))
    """Empty for a negative; required, so that an unknown spelling does not read as a negative."""
    crop_px: tuple[int, int, int, int] | None = None
    """Part `x0,y0,x1,y1` of the original image that an import took; stored only if there is one."""
    rejected: list[str] = []
    """A reason for each box that an import could not use; stored only if there is one."""


class RunManifest(BaseModel):
    """`run_manifest.json`."""

    schema_version: SchemaVersion = 1
    run_id: str | None = None
    source: str | None = None
    group_id: str | None = None
    """The patient, procedure or scene: the unit that splits may not cut."""
    seed: int | None = None
    started_at_unix: float | None = None
    frame_rate_hz: float | None = None
    num_frames: int | None = None
    image_size_wh: tuple[int, int] | None = None
    camera: dict[str, Any] | None = None
    simulation: dict[str, Any] | None = None
    """Settings of the simulator that made the run."""
    haustra_version: str | None = None
    dataset: str | None = None
    licence: str | None = None
    citation: str | None = None
    split: StatedSplit | None = None
    """Split that the dataset puts the run into; stored only if it states one."""
    detector: str | None = None
    """Name of the detector that made the labels; stored only if there is one."""
    crop: Literal["auto"] | None = None
    """auto if each image is the endoscope's picture without its border; stored only then."""
    import_result: dict[str, Any] | None = None
    """Counts and notes of an import; stored only for one."""

    @property
    def time_order_rate_hz(self) -> float | None:
        """Frame rate of a run in time order; None for stills and where no rate is stated.

        Simulated stills state a frame rate as well, but each of them is a view of its own.
        """
        is_still = (self.simulation or {}).get("preset") == "still"
        return None if is_still else self.frame_rate_hz


def read_model(path: Path, *, model: type[Model], what: str) -> Model:
    """Read a JSON file of a run folder; messages call it `what`, such as "a frame label".

    Raises:
        HaustraError: It cannot be read, or its shape is wrong; the first bad field and its value
            are named.
    """
    value = read_json(path, what=what)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the file"
        reason = f"field {field!r}: {problem['msg']}, got {problem['input']!r:.60}"
        if problem["type"] == "missing":
            reason = f"field {field!r} is missing"
        raise HaustraError(f"{path} is not {what}: {reason}") from None
