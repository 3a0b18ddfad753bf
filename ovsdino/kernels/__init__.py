"""Fused kernels: defined in `reference`, implemented in `triton_kernels`, torch operators in `ops`."""
