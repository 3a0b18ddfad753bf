"""From shards of masks and photos to batches."""
