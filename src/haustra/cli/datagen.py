"""`haustra datagen`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Json, build_progress, print_json, print_lines
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
    if as_json:
        print_json({"runs": folders, "num_kept": result.num_kept})
        return
    kept = f" ({result.num_kept} existed already)" if result.num_kept else ""
    print_lines(
        f"simulated {len(folders)} run(s) of {config.frames} frames in {config.output_root}{kept}",
        f"view them:    haustra overlay {folders[0]}",
        f"next:         haustra prune --captures {config.output_root}",
    )
