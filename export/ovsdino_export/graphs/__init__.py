"""From torch modules to checked ONNX graphs."""
