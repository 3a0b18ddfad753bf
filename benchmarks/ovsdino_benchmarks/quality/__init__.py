"""Measure mIoU and Boundary IoU by the papers' protocols."""
