"""200 runs of commands that fail at once: exit code 2 and one line in each.

A thread of a library that outlives the interpreter aborts the process (exit code 134) in one of
three runs or fewer, so that single runs do not find it.
"""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checkpoints import write_lively_checkpoint
from scenes import write_warehouse
from viewing import write_video

pytestmark = pytest.mark.stress

NUM_RUNS = 200
SEED = 7

ON_WAREHOUSE = """
train --manifest M --max-boxes 9
train --manifest M --checkpoint-out D
train --manifest M --metrics-out F/x.jsonl
train --manifest M --patience 1 --patience-min-delta 0 --resume
train --manifest M --model big --checkpoint-out W
train --manifest M --init-from J
train --manifest M --model big --init-from W
train --manifest M --resume
train --manifest M --recipe J
train --manifest M --dry-run --tensorboard F
train --manifest J
train --manifest D
train --config J --manifest M
eval --manifest M --detector-weights J
eval --manifest M --detector-weights W --model big
eval --manifest M --detector-weights W --report F
eval --manifest M --detector-weights W --metrics-out D
eval --manifest M --detector-weights P --degrade
eval --manifest M --compare W J
eval --manifest M --fit --compare W W
eval --captures D --detector-weights W
export --detector-weights J
export --detector-weights W --manifest D
export --detector-weights W --out F/x.onnx
warehouse explain M nothing
warehouse export M --out D/x.txt
warehouse export M --out F/x.csv
warehouse diff M J
warehouse verify D
warehouse repair D --captures C
warehouse audit J
warehouse command D
"""
WITHOUT = """
datagen --runs 0
datagen --output-root F
datagen --mesh J
datagen --frames x
overlay D
overlay C
import masks D D
import masks C nowhere
import coco D J
import yolo D nowhere
import voc D nowhere
convert D --to coco --output-root out
convert C --to coco --output-root C/x
prune --captures D --output-root out
prune --captures C --output-root C/x
etl --captures D
etl --captures C --split 1,2
etl --captures C --target-size 5
etl --captures C --output-root F
infer
infer --image D
infer --image J
infer --image J --detector-weights W
infer --video J
infer --video V --out D
infer --video V --out V
infer --video V --detector-weights J
view --headless --source V
view --headless --source D --output-root out
view --headless --source V --output-root F
view --source nowhere
view --detector-weights J
info J
info D
info nowhere
backends --nothing
nothing
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    manifest = write_warehouse(folder, max_polyps=1)
    (folder / "m").symlink_to(manifest.parent)
    write_lively_checkpoint(folder / "w.bin", manifest=manifest)
    write_video(folder / "v.mp4", num_frames=3)
    (folder / "f").write_text("")
    (folder / "j.json").write_text('{"a": 1}')
    (folder / "p.json").write_text("[]")
    (folder / "d").mkdir()
    return folder


NAMES = {
    "M": "m/manifest.json",
    "W": "w.bin",
    "V": "v.mp4",
    "F": "f",
    "J": "j.json",
    "P": "p.json",
    "D": "d",
    "C": "captures",
}


def words_of(line: str) -> list[str]:
    """Replace the capital at the beginning of a path by the file that it stands for."""
    words = []
    for word in line.split():
        first, slash, rest = word.partition("/")
        words.append(NAMES.get(first, first) + slash + rest)
    return words


def test_short_failures_end_with_exit_code_2_and_one_line(place: Path) -> None:
    before = {path for path in place.rglob("*") if path.is_file()}
    random_source = random.Random(SEED)
    # Those that read a table are the ones that have aborted.
    first, second = (text.strip().splitlines() for text in (ON_WAREHOUSE, WITHOUT))
    lines = [*first, *second]
    lines += random_source.choices(first, k=NUM_RUNS - len(lines))
    random_source.shuffle(lines)

    def run(line: str) -> tuple[str, int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "haustra", *words_of(line)],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return line, done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, lines))
    wrong = [
        f"{line}: {code}, {said[-600:]}"
        for line, code, said in results
        if code != 2 or said.count("\n") != 1
    ]
    assert len(results) == NUM_RUNS
    assert not wrong, "\n".join(dict.fromkeys(wrong))
    assert {path for path in place.rglob("*") if path.is_file()} == before
