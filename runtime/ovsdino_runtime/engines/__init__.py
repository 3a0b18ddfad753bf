"""What runs a graph: ONNX Runtime, TensorRT and TensorRT for RTX, and the cache of built engines."""
