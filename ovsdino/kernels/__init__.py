"""Fused kernels: `reference` says what they compute, `triton_kernels` how, `ops` makes operators of them."""
