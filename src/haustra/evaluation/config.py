"""`EvalConfig`: every setting of an evaluation, declared once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from haustra.core.backend_names import BackendFlag
from haustra.core.checked import (
    CheckedSettings,
    Count,
    OutputFile,
    OutputFolder,
    Share,
    ShareBetween,
    Whole,
)
from haustra.core.errors import HaustraError, option
from haustra.core.operating_point import DEFAULT_FPR
from haustra.evaluation.fitting import FitRule
from haustra.warehouse.format import SplitName


@dataclass(frozen=True, kw_only=True)
class EvalConfig(CheckedSettings):
    """Settings of `haustra eval`."""

    manifest: Path | None = None
    """The warehouse's manifest.json, or its folder."""
    captures: Path | None = None
    """A run folder, or a folder of them, to measure on in time order, instead of a warehouse."""
    detector_weights: Path | None = None
    """A checkpoint, an .onnx file of `haustra export`, or stored predictions (.json)."""
    compare: tuple[Path, Path] | None = None
    """Two such files, A and B, instead of one: paired differences with intervals."""
    model: Literal["tiny", "big"] | None = None
    """Kind of model that the weights must have."""
    backend: BackendFlag | None = None
    """Where to compute: cpu (alias ndarray), cuda, mps, wgpu (.onnx files only), or auto, the best
    that is available; by default the value of HAUSTRA_BACKEND, or else cpu."""
    split: SplitName | None = None
    """Split to measure on; test by default, and val with --fit."""
    infer_obj_thresh: Share | None = None
    """Lowest score of a box that counts for precision and recall; by default that of the operating
    point."""
    infer_iou_thresh: Share | None = None
    """IoU above which only the better of two boxes counts, from 0 to 1; by default that of the
    operating point (0.5). With 1 both count."""
    fit: bool = False
    """Fit the operating point on these frames, and store it in the checkpoint."""
    fit_by: FitRule = "fpr"
    """fpr flags --fit-fpr of the clean frames; f1 is the best F1 of boxes."""
    fit_fpr: ShareBetween = DEFAULT_FPR
    """Largest share of the clean frames that may be flagged."""
    degrade: bool = False
    """Measure on degraded images as well (blur, glare, ...): 9 kinds at 3 severities, and the
    picture shrunk to 0.5 and 0.35 of its side."""
    shuffle_labels_seed: Count | None = None
    """Seed of a control that shuffles the labels among the images; AP must be near zero."""
    bootstrap: Annotated[Whole, Field(ge=0, le=100_000)] = 1000
    """Number of times to resample the frames' groups for 95 % intervals; 0 gives none."""
    bootstrap_seed: Count = 0
    """Seed of the resamples."""
    metrics_out: OutputFile | None = None
    """Write the metrics as JSON to this file."""
    predictions_out: OutputFile | None = None
    """Write the detections on each frame to this file (.json)."""
    report: OutputFolder | None = None
    """Write a report with curves and boxed pictures into this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sources()
        self._check_fit()
        if self.predictions_out is not None and self.predictions_out.suffix.lower() != ".json":
            raise HaustraError(
                f"{option('predictions_out', self.predictions_out)}: expected a name that ends in "
                ".json, by which `haustra eval` recognizes stored predictions"
            )

    def _check_sources(self) -> None:
        if (self.manifest is None) == (self.captures is None):
            raise HaustraError(
                f"expected one of {option('manifest')} (a warehouse) and {option('captures')} (run "
                "folders): the frames to measure on"
            )
        if self.captures is not None and self.split is not None:
            raise HaustraError(
                f"{option('split', self.split)} with {option('captures', self.captures)}: expected "
                f"it with {option('manifest')}, since captures have no splits"
            )
        if self.detector_weights is not None and self.compare is not None:
            raise HaustraError(
                f"expected one of {option('detector_weights')} (a file) and {option('compare')} "
                "(two of them): what to measure"
            )
        if self.compare is not None and not self.bootstrap:
            raise HaustraError(
                f"{option('bootstrap', 0)} with {option('compare')}: expected at least 1, since a "
                "comparison is a set of intervals"
            )
        weights = self.detector_weights
        if weights is not None and weights.suffix.lower() == ".json" and (self.fit or self.degrade):
            name = "fit" if self.fit else "degrade"
            raise HaustraError(
                f"{option(name)} with stored predictions {weights}: expected a checkpoint, since "
                + ("they have no header" if self.fit else "they cannot look at other images")
            )

    def _check_fit(self) -> None:
        for name in ("compare", "shuffle_labels_seed", "infer_obj_thresh"):
            if self.fit and getattr(self, name) is not None:
                raise HaustraError(f"{option('fit')} with {option(name)}: expected one of them")

    @property
    def split_name(self) -> SplitName:
        """The split to measure on, of a warehouse."""
        return self.split or ("val" if self.fit else "test")
