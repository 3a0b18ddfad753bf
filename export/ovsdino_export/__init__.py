"""From a torch model to a bundle: rewriting, ONNX, parity. Importing this package imports nothing else."""
