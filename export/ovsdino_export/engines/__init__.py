"""TensorRT engines and fused kernels, built without a GPU."""
