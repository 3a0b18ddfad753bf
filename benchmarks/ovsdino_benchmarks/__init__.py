"""Measure what the runtime does: quality by the papers' protocols, and latency beside its floor."""
