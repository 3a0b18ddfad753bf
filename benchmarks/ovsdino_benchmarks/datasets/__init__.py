"""Benchmarks as data: classes, files, label values and protocols."""
