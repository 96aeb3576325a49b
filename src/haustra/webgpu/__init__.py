"""Training on WebGPU by tinygrad. Experimental: it reaches into tinygrad and is slow on a CPU."""
