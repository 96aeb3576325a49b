#!/usr/bin/env bash
# Train TinyDet for one epoch on WebGPU (experimental): simulated frames of 64x64, the detector measured
# on the CPU, and a control with shuffled labels. Mesa's software Vulkan takes about five
# minutes on two CPU cores. On a GPU most of the time is the minute in which kernels are compiled.
#
#     bash runs/wgpu.sh [FOLDER]
set -euo pipefail
mkdir -p "${1:-wgpu}"
cd "${1:-wgpu}"

haustra backends
haustra datagen --runs 80 --frames 30 --size 64
haustra prune
haustra etl --target-size 64
manifest=$(ls artifacts/tensor_warehouse/v*/manifest.json)
haustra train --manifest "$manifest" --backend wgpu --epochs 1 --batch-size 2 --no-augment \
    --checkpoint-out wgpu.bin
haustra eval --manifest "$manifest" --detector-weights wgpu.bin
haustra eval --manifest "$manifest" --detector-weights wgpu.bin --shuffle-labels-seed 1
