"""Training data: read masks and photos, cut squares, and assemble batches."""
