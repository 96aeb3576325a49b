#!/usr/bin/env bash
# Run the whole pipeline on simulated captures, on a CPU, in a few minutes. Everything lands in demo/.
# TinyDet draws one box per frame, so a simulated colon has one polyp; twelve have none, to count false
# alarms. For several polyps train BigDet (`haustra train --model big`), which needs more minutes than
# a demonstration has.
set -euo pipefail
cd "$(dirname "$0")/.."
out=demo
rm -rf "$out"
mkdir -p "$out"

echo "== 1/6 datagen: simulated colonoscopies with labels"
haustra datagen --runs 80 --frames 10 --polyps-per-run 1 --size 256 --jobs 2 \
    --output-root "$out/captures"
haustra datagen --runs 12 --seed 500 --frames 10 --polyps-per-run 0 --size 256 --jobs 2 \
    --output-root "$out/captures"
haustra overlay "$out/captures/run_sim_000000"

echo "== 2/6 prune: drop frames that cannot be used"
haustra prune --captures "$out/captures" --output-root "$out/captures_filtered"

echo "== 3/6 etl: build the tensor warehouse"
haustra etl --captures "$out/captures_filtered" --output-root "$out/tensor_warehouse" \
    --target-size 256 --split 0.65,0.1,0.25
manifest=$(echo "$out"/tensor_warehouse/v*/manifest.json)

echo "== 4/6 train: TinyDet, for two and a half minutes"
haustra train --manifest "$manifest" --model tiny --time-budget 150s \
    --checkpoint-out "$out/checkpoints/tinydet.bin"

echo "== 5/6 eval: measure it on colons that it never saw, at the threshold that its training fitted"
haustra eval --manifest "$manifest" --detector-weights "$out/checkpoints/tinydet.bin" \
    --split test --report "$out/report" --metrics-out "$out/metrics.json"
echo
echo "How to read this: AP50 is 1 if every polyp has a box that overlaps it by half or more (IoU 0.5)"
echo "and every wrong box has a lower score. Recall is the share of polyps found at the threshold."
echo "TinyDet draws one box per frame. Frames show one polyp at most here, so its recall can be 1;"
echo "of several polyps it finds one. Train BigDet for those: haustra train --model big."
echo

echo "== 6/6 infer: draw boxes on the frames of another colon"
haustra datagen --seed 900 --frames 12 --polyps-per-run 1 --size 256 --output-root "$out/unseen"
haustra infer --image "$out/unseen/run_sim_000900" \
    --detector-weights "$out/checkpoints/tinydet.bin" --output-root "$out/boxed"

echo
echo "Pictures: $out/report/gallery.png (test frames: labels blue, detections green)"
echo "          $out/report/curves.png (loss, validation, precision and recall)"
echo "          $out/boxed/ (boxes on unseen frames), $out/captures/run_sim_000000/overlays/"
echo "Numbers:  $out/metrics.json, $out/report/report.html"
