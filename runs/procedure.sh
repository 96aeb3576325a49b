#!/usr/bin/env bash
# Measure a detector during whole procedures: lesions, alarms, hold-off. BigDet is trained on simulated
# frames, fitted on three simulated procedures and measured on four others, and on degraded images. A
# quarter of an hour on two CPU cores.
#   runs/procedure.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-reports/procedure}
TRAIN_BUDGET=${TRAIN_BUDGET:-6m}
mkdir -p "$out"
simulate() { haustra datagen --size 128 --jobs 2 "$@"; }

echo "== 1/5 training frames: stills, and procedures for the views between polyps"
simulate --runs 70 --frames 12 --seed 0 --output-root "$out/train"
simulate --preset procedure --runs 5 --frames 200 --seed 1000 --output-root "$out/train"
haustra etl --captures "$out/train" --target-size 128 --output-root "$out/warehouse"
manifest=$(echo "$out"/warehouse/v*/manifest.json)

echo "== 2/5 procedures of other seeds, to fit and to measure on"
simulate --preset procedure --runs 3 --frames 300 --seed 2000 --output-root "$out/validation"
simulate --preset procedure --runs 4 --frames 300 --seed 3000 --output-root "$out/test"

echo "== 3/5 train"
haustra train --manifest "$manifest" --model big --time-budget "$TRAIN_BUDGET" \
    --checkpoint-out "$out/bigdet.bin"

echo "== 4/5 fit the operating point"
haustra eval --captures "$out/validation" --detector-weights "$out/bigdet.bin" --fit

echo "== 5/5 measure"
haustra eval --captures "$out/test" --detector-weights "$out/bigdet.bin" \
    --report "$out/report" --metrics-out "$out/metrics.json"
haustra eval --manifest "$manifest" --detector-weights "$out/bigdet.bin" --infer-obj-thresh 0.3 \
    --degrade
echo "Look at $out/report/report.html"
