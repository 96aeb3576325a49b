#!/usr/bin/env bash
# The whole pipeline on simulated captures, on a CPU, in a few minutes. Everything lands in demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=demo
rm -rf "$out"
mkdir -p "$out"

echo "== 1/6 datagen: simulated colonoscopies with labels"
haustra datagen --runs 24 --frames 40 --size 256 --jobs 2 --output-root "$out/captures"
haustra overlay "$out/captures/run_sim_000000"

echo "== 2/6 prune: drop what cannot be used"
haustra prune --captures "$out/captures" --output-root "$out/captures_filtered"

echo "== 3/6 etl: the tensor warehouse"
haustra etl --captures "$out/captures_filtered" --output-root "$out/tensor_warehouse" \
    --target-size 256 --split 0.7,0.1,0.2
manifest=$(echo "$out"/tensor_warehouse/v*/manifest.json)

echo "== 4/6 train: TinyDet from the manifest"
haustra train --manifest "$manifest" --model tiny --time-budget 150s \
    --checkpoint-out "$out/checkpoints/tinydet.bin"

echo "== 5/6 eval: on captures that it never saw"
haustra eval --manifest "$manifest" --detector-weights "$out/checkpoints/tinydet.bin" \
    --split test --report "$out/report" --metrics-out "$out/metrics.json"

echo "== 6/6 infer: boxes on the frames of a colon that no training saw"
haustra datagen --seed 900 --frames 12 --size 256 --output-root "$out/unseen"
haustra infer --image "$out/unseen/run_sim_000900" \
    --detector-weights "$out/checkpoints/tinydet.bin" --output-root "$out/boxed"

echo
echo "Pictures: $out/report/gallery.png (test frames: blue labelled, green found)"
echo "          $out/report/curves.png (loss, validation, precision and recall)"
echo "          $out/boxed/ (boxes on unseen frames), $out/captures/run_sim_000000/overlays/"
echo "Numbers:  $out/metrics.json, $out/report/report.html"
