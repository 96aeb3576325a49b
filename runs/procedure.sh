#!/usr/bin/env bash
# Measure a detector during whole procedures: lesions, alarms, hold-off. BigDet is trained on simulated
# frames, fitted on three simulated procedures and measured on four others. Half an hour on two CPU
# cores.
#   runs/procedure.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-reports/procedure}
TRAIN_BUDGET=${TRAIN_BUDGET:-15m}
mkdir -p "$out"

echo "== 1/5 training frames: stills, and procedures for the views between polyps"
haustra datagen --runs 70 --frames 12 --size 256 --seed 0 --jobs 2 --output-root "$out/train"
haustra datagen --preset procedure --runs 5 --frames 250 --size 256 --seed 1000 --jobs 2 \
    --output-root "$out/train"
haustra etl --captures "$out/train" --target-size 256 --output-root "$out/warehouse"

echo "== 2/5 procedures of other seeds, to fit and to measure on"
haustra datagen --preset procedure --runs 3 --frames 600 --size 256 --seed 2000 --jobs 2 \
    --output-root "$out/validation"
haustra datagen --preset procedure --runs 4 --frames 600 --size 256 --seed 3000 --jobs 2 \
    --output-root "$out/test"

echo "== 3/5 train"
haustra train --manifest "$out"/warehouse/v*/manifest.json --model big \
    --time-budget "$TRAIN_BUDGET" --val-every 4 --checkpoint-out "$out/bigdet.bin"

echo "== 4/5 fit the operating point"
haustra eval --captures "$out/validation" --detector-weights "$out/bigdet.bin" --fit

echo "== 5/5 measure"
haustra eval --captures "$out/test" --detector-weights "$out/bigdet.bin" --bootstrap 200 \
    --report "$out/report" --metrics-out "$out/metrics.json"
echo "Look at $out/report/report.html"
