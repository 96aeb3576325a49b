import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from haustra.core.errors import HaustraError
from haustra.simulator.config import DatagenConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("runs", 0, "runs=0: expected a whole number of at least 1"),
        ("frames", 0, "frames=0: expected a whole number of at least 1"),
        ("frames", 1.5, "frames=1.5: expected a whole number of at least 1"),
        ("seed", -1, "seed=-1: expected a whole number of at least 0"),
        ("size", 63, "size=63: expected a whole number from 64 to 4096"),
        ("size", 4097, "size=4097: expected a whole number from 64 to 4096"),
        ("frame_rate_hz", 0.0, "frame_rate_hz=0.0: expected a finite number above 0"),
        ("frame_rate_hz", math.inf, "frame_rate_hz=inf: expected a finite number above 0"),
        ("frame_rate_hz", math.nan, "frame_rate_hz=nan: expected a finite number above 0"),
        ("polyps_per_run", -1, "polyps_per_run=-1: expected a whole number from 0 to 24"),
        ("polyps_per_run", 25, "polyps_per_run=25: expected a whole number from 0 to 24"),
        (
            "polyp_size_mm",
            (5.0, 3.0),
            "polyp_size_mm 5 3: expected two widths from 1 to 40 mm, the smaller first",
        ),
        (
            "polyp_size_mm",
            (2.0, 41.0),
            "polyp_size_mm 2 41: expected two widths from 1 to 40 mm, the smaller first",
        ),
        ("jobs", 0, "jobs=0: expected a whole number of at least 1"),
        ("max_cpu", 0.0, "max_cpu=0.0: expected a number above 0 and up to 100"),
        ("max_cpu", 101.0, "max_cpu=101.0: expected a number above 0 and up to 100"),
        ("min_free_mem", -1, "min_free_mem=-1: expected a whole number of at least 0"),
        ("min_visible_pixels", 0, "min_visible_pixels=0: expected a whole number of at least 1"),
    ],
)
def test_a_bad_value_is_reported_with_its_setting(field: str, value: Any, message: str) -> None:
    with pytest.raises(HaustraError) as caught:
        DatagenConfig(**{field: value})
    assert str(caught.value) == message


def test_paths_may_be_text() -> None:
    config = DatagenConfig(output_root="captures", mesh="colon.stl")  # type: ignore[arg-type]
    assert (config.output_root, config.mesh) == (Path("captures"), Path("colon.stl"))


def test_the_smallest_allowed_values_are_accepted() -> None:
    DatagenConfig(runs=1, frames=1, seed=0, size=64, polyps_per_run=0, min_visible_pixels=1)


def test_importing_the_config_loads_nothing_heavy() -> None:
    code = (
        "import sys, haustra.simulator.config;"
        "print(sorted({'numpy', 'cv2', 'embreex', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE
    )
    assert done.stdout == "[]\n"
