"""Export a torch model to a bundle: rewrite, ONNX, parity. Importing this package imports nothing else."""
