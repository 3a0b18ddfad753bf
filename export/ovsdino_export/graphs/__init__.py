"""Export torch modules to ONNX graphs, check and store them."""
