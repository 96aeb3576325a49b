#!/usr/bin/env bash
# Train BigDet on simulated stills only, and measure it on real images: the 215 validation images of
# Kvasir-SEG (Jha et al. 2020). At most half an hour on two CPU cores.
#   runs/sim_to_real.sh [DATA [OUT]]
# DATA holds images/ and masks/; the data are not part of this repository.
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${RUNS:-150}
FRAMES=${FRAMES:-30}
TRAIN_BUDGET=${TRAIN_BUDGET:-20m}
data=${1:-../shared/data/kvasir-seg}
out=${2:-reports/sim_to_real}
if [ ! -d "$data/images" ]; then
    echo "skipped: no Kvasir-SEG images in $data (expected $data/images and $data/masks)"
    exit 0
fi
mkdir -p "$out"
rm -rf "$out/sim" "$out/sim_warehouse" "$out/kvasir" "$out/kvasir_warehouse"

echo "== 1/4 simulated stills and their warehouse"
started=$SECONDS
haustra datagen --preset still --runs "$RUNS" --frames "$FRAMES" --size 256 --jobs 2 \
    --output-root "$out/sim"
haustra etl --captures "$out/sim" --output-root "$out/sim_warehouse" --target-size 256 \
    --split 0.95,0.05,0
simulated=$(echo "$out"/sim_warehouse/v*/manifest.json)
data_s=$((SECONDS - started))

echo "== 2/4 Kvasir-SEG, to measure on"
haustra import masks "$data/images" "$data/masks" --output-root "$out/kvasir" \
    --dataset "Kvasir-SEG" --licence "research and education only" \
    --citation "D. Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MultiMedia Modeling 2020"
haustra etl --captures "$out/kvasir" --output-root "$out/kvasir_warehouse" --target-size 256 \
    --split-rule sha256:5
real=$(echo "$out"/kvasir_warehouse/v*/manifest.json)

echo "== 3/4 train: BigDet on simulated frames only"
started=$SECONDS
haustra train --manifest "$simulated" --model big --time-budget "$TRAIN_BUDGET" \
    --checkpoint-out "$out/bigdet.bin" --overwrite
train_s=$((SECONDS - started))

echo "== 4/4 eval: on real images"
haustra eval --manifest "$real" --split val --detector-weights "$out/bigdet.bin" \
    --report "$out/report" --metrics-out "$out/metrics.json"

echo
python3 - "$out/metrics.json" "$data_s" "$train_s" <<'END'
import json, sys
metrics = json.load(open(sys.argv[1]))
low, high = metrics["bootstrap"]["ap50"]
data, train = (int(seconds) / 60 for seconds in sys.argv[2:])
print(
    f"AP50 {metrics['average_precision']['ap50']:.3f} (95 % interval {low:.3f} to {high:.3f}) on "
    f"{metrics['num_images']} real images; data {data:.1f} min, training {train:.1f} min"
)
END
echo "Pictures and numbers: $out/report/report.html"
