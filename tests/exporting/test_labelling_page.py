"""The loop of docs/labelling.md, run as it is written: its outputs are the real ones."""

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest

from haustra.captures.reader import read_run
from haustra.cli.main import main

PAGE = Path(__file__).parents[2] / "docs/labelling.md"
WEIGHTS = Path(__file__).parents[1] / "view/tinydet_sim.bin"


def write_ward_video() -> None:
    """Write a simulated procedure as a video of 12 seconds, and captures that are labeled."""
    main(["datagen", "--seed", "14", "--runs", "6", "--frames", "6", "--size", "128"])
    main(["etl", "--captures", "captures", "--target-size", "192", "--output-root", "earlier"])
    procedure = ["--preset", "procedure", "--seed", "301", "--frames", "120", "--size", "128"]
    main(["datagen", *procedure, "--output-root", "simulated"])
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    video = cv2.VideoWriter("ward.avi", codec, 10.0, (128, 128))
    for path in sorted(Path("simulated/run_sim_000301/images").iterdir()):
        image = cv2.imread(str(path))
        assert image is not None
        video.write(image)
    video.release()
    Path("tinydet.bin").write_bytes(WEIGHTS.read_bytes())


def correct_as_a_labeler() -> None:
    """Change one box, delete one and draw one, as CVAT exports it."""
    tree = ElementTree.parse("for_cvat/annotations.xml")
    root = tree.getroot()
    meta = root.find("meta")
    assert meta is not None
    root.remove(meta)
    first, second, third = root.findall("image")[:3]
    moved, deleted = first.find("box"), second.find("box")
    assert moved is not None
    assert deleted is not None
    moved.attrib.update(xtl="30.00", source="semi-auto")
    second.remove(deleted)
    corners = {"xtl": "10.00", "ytl": "12.00", "xbr": "40.00", "ybr": "50.00"}
    ElementTree.SubElement(third, "box", {"label": "polyp", "source": "manual", **corners})
    tree.write("corrected.xml")


def masked(text: str) -> str:
    """Replace what depends on the processor: decimal places, and the version that follows."""
    return re.sub(r"(?<=\d)\.\d+|\bv[0-9a-f]{16}\b", "#", text)


def run_line(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, bool]:
    """Run a command of the page; return its output with its error, and True if it failed."""
    for name, root in (("EARLIER", "earlier"), ("MANIFEST", "artifacts/tensor_warehouse")):
        if name in line:
            [manifest] = Path(root).glob("*/manifest.json")
            line = line.replace(name, str(manifest))
    words = shlex.split(line)
    assert words.pop(0) == "haustra"
    target = Path(words[words.index(">") + 1]) if ">" in words else None
    capsys.readouterr()
    failed = False
    try:
        main(words[: words.index(">")] if target else words)
    except SystemExit as exit_:
        failed = bool(exit_.code)
    out, err = capsys.readouterr()
    if target is None:
        return out + err, failed
    target.write_text(out)
    return "", failed


@pytest.mark.slow
def test_the_loop_of_the_page_runs_and_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    steps = [step for block in blocks for step in re.split("^[$] ", block, flags=re.MULTILINE)[1:]]
    monkeypatch.chdir(tmp_path)
    write_ward_video()
    commands = []
    for step in steps:
        line, _, shown = step.partition("\n")
        if "corrected.xml" in line:
            correct_as_a_labeler()
        commands.append(" ".join(line.removeprefix("haustra ").split()[:2]))
        printed, failed = run_line(line, capsys)
        assert failed == shown.startswith("haustra: "), printed
        lines = [text for text in shown.splitlines() if text != "..."]
        missing = [text for text in lines if masked(text) not in masked(printed)]
        assert not missing, f"docs/labelling.md: `{line}` prints:\n{printed}"
    assert commands == [
        *(
            "eval --manifest",
            "import video",
            "infer --image",
            "infer --image",
            "convert found.json",
            "import cvat",
        ),
        *("prune", "etl --target-size", "train --manifest", "eval --manifest"),
        *("convert found.json", "import label-studio", "import cvat"),
    ]
    labeled = read_run("captures/run_ward-labeled")
    boxes = [len(frame.label.labels) for frame in labeled.frames if frame.label is not None]
    assert boxes == [1, 0, 2, 1, 1, 1, 1, 1]
    assert labeled.frames[0].label is not None
    assert labeled.frames[0].label.labels[0].bbox_px[0] == 30
    assert {frame.group_id for frame in labeled.frames} == {"ward"}
