"""Measure the fused kernels against their references."""
