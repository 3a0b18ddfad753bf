"""Models published by others: the catalogue, downloads, and networks that load their checkpoints."""
