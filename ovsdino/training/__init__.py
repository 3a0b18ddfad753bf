"""Train OVS-DINO and dinov3.seg on pseudo-masks: data, losses and the training loop."""
