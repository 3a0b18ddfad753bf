"""Targets of the losses: word embeddings and structure targets."""
