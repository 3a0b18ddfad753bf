"""Choose layers and products so that FP16, BF16 and INT8 graphs pass their comparison."""
