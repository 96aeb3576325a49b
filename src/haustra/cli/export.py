"""`haustra export`."""

from typing import Annotated

from haustra.cli.terminal import Flags, Json, build_progress, print_result, table_lines
from haustra.core.errors import needs_extra
from haustra.exporting.config import ExportConfig


def export(*, config: Annotated[ExportConfig, Flags], as_json: Json = False) -> None:
    """Write a checkpoint as an ONNX model and check it against the checkpoint."""
    with needs_extra("export", needed_for="haustra export"):
        from haustra.exporting.stage import ExportedForm, export_detector

    result = export_detector(config, progress=build_progress(as_json=as_json))

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    def row(form: ExportedForm) -> list[str]:
        shown = form.difference
        return [
            form.name,
            f"{form.num_bytes / 1e6:.1f}",
            number(form.ap50),
            number(form.ap50_95),
            number(shown.ap50_loss) if shown else "",
            number(shown.median_box_shift_px) if shown else "",
            number(shown.max_box_shift_px) if shown else "",
            f"{form.latency_ms:.2f}",
        ]

    columns = ["form", "MB", "AP50", "AP50-95", "AP50 lost", "shift px", "largest", "ms"]
    print_result(
        result.to_json(),
        *table_lines(columns, rows=[row(form) for form in result.forms]),
        f"{result.num_images} {result.split_name} images; milliseconds for one image on one thread",
        *result.notes,
        f"wrote {result.path} (opset {result.opset})",
        f"next: haustra infer --detector-weights {result.path} --image IMAGE",
        as_json=as_json,
    )
