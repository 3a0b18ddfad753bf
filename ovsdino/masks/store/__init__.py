"""Pseudo-masks on disk."""
