"""Measure a server under load."""
