#!/usr/bin/env bash
# Train both models on real colonoscopy images: Kvasir-SEG (Jha et al. 2020) at 256x256, ten minutes
# each on the CPU. Measure them on the 215 validation images, with the shuffled-label control.
#   runs/kvasir.sh [--with-sim] [DATA [OUT [BUDGET]]]
# DATA holds images/ and masks/; the data are not part of this repository.
# --with-sim trains BigDet twice instead, for the same time on the same real images: from scratch, and
# from weights trained on simulated frames (runs/sim_to_real.sh, half an hour more).
set -euo pipefail
cd "$(dirname "$0")/.."
with_sim=
if [ "${1:-}" = --with-sim ]; then
    with_sim=yes
    shift
fi
data=${1:-../shared/data/kvasir-seg}
out=${2:-reports/kvasir}
budget=${3:-10m}
if [ ! -d "$data/images" ]; then
    echo "skipped: no Kvasir-SEG images in $data (expected $data/images and $data/masks)"
    exit 0
fi
mkdir -p "$out"

haustra import masks "$data/images" "$data/masks" --output-root "$out/captures" --overwrite \
    --dataset "Kvasir-SEG" --licence "research and education only" \
    --citation "D. Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MultiMedia Modeling 2020"
haustra etl --captures "$out/captures" --output-root "$out/tensor_warehouse" --target-size 256 \
    --split-rule sha256:5
manifest=$(echo "$out"/tensor_warehouse/v*/manifest.json)

if [ -n "$with_sim" ]; then
    simulated="$out/sim_to_real/bigdet.bin"
    [ -f "$simulated" ] || bash runs/sim_to_real.sh "$data" "$out/sim_to_real"
    haustra train --manifest "$manifest" --model big --time-budget "$budget" \
        --checkpoint-out "$out/checkpoints/bigdet.bin"
    haustra train --manifest "$manifest" --model big --time-budget "$budget" \
        --init-from "$simulated" --checkpoint-out "$out/checkpoints/bigdet_with_sim.bin"
    for name in bigdet bigdet_with_sim; do
        echo "== $name: $budget on the real images"
        haustra eval --manifest "$manifest" --detector-weights "$out/checkpoints/$name.bin" \
            --split val --report "$out/$name" --metrics-out "$out/$name.json"
    done
    exit 0
fi

for model in big tiny; do
    weights="$out/checkpoints/${model}det.bin"
    haustra train --manifest "$manifest" --model "$model" --time-budget "$budget" \
        --checkpoint-out "$weights"
    haustra eval --manifest "$manifest" --detector-weights "$weights" --split val \
        --report "$out/${model}det" --metrics-out "$out/${model}det.json"
    haustra eval --manifest "$manifest" --detector-weights "$weights" --split val \
        --shuffle-labels-seed 0 --metrics-out "$out/${model}det_shuffled.json"
done
echo "Pictures and numbers: $out/bigdet/report.html, $out/tinydet/report.html"
