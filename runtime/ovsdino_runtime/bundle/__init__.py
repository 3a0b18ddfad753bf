"""Bundles on disk: manifest, graphs, kernels, and where models are found."""
