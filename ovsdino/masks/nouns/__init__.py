"""Extract nouns from captions."""
