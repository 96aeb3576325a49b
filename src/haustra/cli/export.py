"""`haustra export`."""

from typing import Annotated

from haustra.cli.terminal import Flags, Json, build_progress, print_json, print_lines, print_table
from haustra.core.errors import needs_extra
from haustra.exporting.config import ExportConfig


def export(*, config: Annotated[ExportConfig, Flags], as_json: Json = False) -> None:
    """Write a checkpoint as an ONNX model and check it against the checkpoint."""
    with needs_extra("export", needed_for="haustra export"):
        from haustra.exporting.stage import ExportedForm, export_detector

    result = export_detector(config, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(result.to_json())
        return

    def row(form: ExportedForm) -> list[str]:
        shown = form.difference
        return [
            form.name,
            f"{form.num_bytes / 1e6:.1f}",
            "-" if form.ap50 is None else f"{form.ap50:.4f}",
            "-" if form.ap50_95 is None else f"{form.ap50_95:.4f}",
            f"{shown.ap50_loss:.4f}" if shown else "",
            f"{shown.median_box_shift_px:.4f}" if shown else "",
            f"{shown.max_box_shift_px:.4f}" if shown else "",
            f"{form.latency_ms:.2f}",
        ]

    print_table(
        ["form", "MB", "AP50", "AP50-95", "AP50 lost", "shift px", "largest", "ms"],
        rows=[row(form) for form in result.forms],
    )
    print_lines(
        f"{result.num_images} {result.split_name} images; milliseconds for one image on one thread",
        *result.notes,
        f"wrote {result.path} (opset {result.opset})",
        f"next: haustra infer --detector-weights {result.path} --image IMAGE",
    )
