"""The CUDA driver API: devices, memory, streams, events, kernels and graphs."""
