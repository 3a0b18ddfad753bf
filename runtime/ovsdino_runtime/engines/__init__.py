"""Engines that run a graph: ONNX Runtime, OpenVINO, TensorRT, TensorRT for RTX; and their cache."""
