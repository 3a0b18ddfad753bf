"""From class names to embeddings: vocabularies, text encoder, cache and packs."""
