"""Benchmark data sets: classes, files, label values and protocols."""
