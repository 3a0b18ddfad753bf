"""Measure latency and memory, beside baselines and a floor."""
