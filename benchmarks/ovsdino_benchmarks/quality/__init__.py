"""Measure mIoU by the papers' protocols."""
