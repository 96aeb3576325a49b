"""`haustra backends`."""

from haustra.cli.terminal import Json, print_result


def backends(*, as_json: Json = False) -> None:
    """List the backends of this machine and how to get the missing ones."""
    from haustra.backends.describe import describe_backends
    from haustra.inference.onnx_detector import PROVIDERS

    report = describe_backends(onnx_providers=PROVIDERS)
    lines = []
    for state in report.backends:
        note = " (training only, experimental)" if state.name == "wgpu" else ""
        lines += [f"{state.name:8} {text}{note}" for text in state.hardware]
        if state.missing is not None:
            lines.append(f"{state.name:8} missing: {state.missing}")
    for name, found in report.onnx.items():
        lines.append(f"onnx     {name}: " + ("yes" if found is True else f"no ({found})"))
    lines.append(f"default  {report.default} (HAUSTRA_BACKEND sets it)")
    if report.auto is not None:
        lines.append(f"auto     {report.auto}")
    print_result(report.to_json(), *lines, as_json=as_json)
