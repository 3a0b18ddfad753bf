"""FP16, BF16 and INT8 graphs that pass their comparison."""
