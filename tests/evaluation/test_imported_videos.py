"""A labeled video is measured as the run folder that it was made of."""

import json
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from haustra.captures.reader import Run, read_runs
from haustra.cli.main import main
from haustra.core.images import read_image_rgb
from haustra.core.videos import writing_video


def write_video_and_labels(run: Run, *, folder: Path) -> tuple[Path, Path]:
    """Write a run as an MP4 file, and its labels as tracks of CVAT."""
    video, labels = folder / f"{run.run_id}.mp4", folder / f"{run.run_id}.xml"
    rate = run.manifest.frame_rate_hz or 0.0
    tracks: dict[str, dict[int, list[float]]] = defaultdict(dict)
    with writing_video(video, frame_rate_hz=rate) as writer:
        for number, frame in enumerate(run.frames):
            assert frame.label is not None
            assert frame.image_path is not None
            writer.add(read_image_rgb(frame.image_path), seconds=number / rate)
            for polyp in frame.label.labels:
                tracks[polyp.lesion_id or ""][number] = polyp.bbox_px
    lines = []
    for index, (lesion_id, boxes) in enumerate(tracks.items()):
        lines.append(f'<track id="{index}" label="polyp">')
        for number, (x0, y0, x1, y1) in boxes.items():
            corners = f'xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"'
            attribute = f'<attribute name="lesion_id">{escape(lesion_id)}</attribute>'
            lines.append(f'<box frame="{number}" outside="0" {corners}>{attribute}</box>')
            if number + 1 not in boxes:
                lines.append(f'<box frame="{number + 1}" outside="1" {corners}/>')
        lines.append("</track>")
    size = f"<meta><task><size>{len(run.frames)}</size></task></meta>"
    labels.write_text(f"<annotations>{size}{''.join(lines)}</annotations>")
    return video, labels


def write_predictions(path: Path, *, runs: list[Run]) -> None:
    """Write boxes that find some lesions late and raise some alarms."""
    rng = np.random.default_rng(3)
    entries = []
    for run in runs:
        for frame in run.frames:
            assert frame.label is not None
            boxes = [polyp.bbox_px for polyp in frame.label.labels if rng.random() < 0.6]
            boxes += [[1, 1, 12, 12]] * (rng.random() < 0.2)
            entries += [
                {
                    "image_id": frame.sample_id,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": round(float(rng.uniform(0.2, 1)), 3),
                }
                for x0, y0, x1, y1 in boxes
            ]
    path.write_text(json.dumps(entries))


@pytest.mark.slow
def test_lesions_and_alarms_of_a_labeled_video_are_those_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated, imported = tmp_path / "simulated", tmp_path / "imported"
    options = ["--preset", "procedure", "--runs", "2", "--frames", "160", "--size", "64"]
    options += ["--seed", "12"]
    main(["datagen", "--output-root", str(simulated), *options])
    runs = read_runs(simulated)
    assert sum(len(frame.label.labels) for run in runs for frame in run.frames if frame.label) > 20
    for run in runs:
        video, labels = write_video_and_labels(run, folder=tmp_path)
        settings = ["--labels", str(labels), "--run-id", run.run_id]
        main(["import", "video", str(video), *settings, "--output-root", str(imported)])
    predictions = tmp_path / "predictions.json"
    write_predictions(predictions, runs=runs)

    def tables(captures: Path) -> list[str]:
        capsys.readouterr()
        main(["eval", "--captures", str(captures), "--detector-weights", str(predictions)])
        lines = capsys.readouterr().out.splitlines()
        start = next(n for n, line in enumerate(lines) if line.startswith("lesion "))
        return lines[start:]

    wanted = tables(simulated)
    assert any(line.startswith("all ") for line in wanted)
    assert any(line.startswith("hold-off") for line in wanted)
    assert tables(imported) == wanted
