"""`haustra datagen`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Json, build_progress, print_result
from haustra.simulator.config import DatagenConfig


def datagen(
    *,
    config: Annotated[DatagenConfig | None, Parameter(name="*", negative_iterable=())] = None,
    as_json: Json = False,
) -> None:
    """Simulate colonoscopy captures: seeded run folders with frames and labels."""
    from haustra.simulator.generate import generate_runs

    config = config or DatagenConfig()
    result = generate_runs(config, progress=build_progress(as_json=as_json))
    folders = result.folders
    kept = f" ({result.num_kept} existed already)" if result.num_kept else ""
    print_result(
        {"runs": folders, "num_kept": result.num_kept},
        f"simulated {len(folders)} run(s) of {config.frames} frames in {config.output_root}{kept}",
        f"view them:    haustra overlay {folders[0]}",
        f"next:         haustra prune --captures {config.output_root}",
        as_json=as_json,
    )
