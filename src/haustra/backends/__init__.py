"""What computes: PyTorch's devices, WebGPU through tinygrad, and the choice among them."""
