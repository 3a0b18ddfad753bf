"""CUDA's driver: devices, memory, streams, events, kernels and graphs."""
