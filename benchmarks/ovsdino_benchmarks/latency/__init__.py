"""Measure latency and memory, and compare with baselines and roofline floors."""
