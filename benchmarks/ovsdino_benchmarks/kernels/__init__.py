"""Measure the fused kernels beside their references."""
