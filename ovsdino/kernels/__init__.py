"""Fused kernels: `reference` defines them, `triton_kernels` implements them, `ops` makes torch operators."""
