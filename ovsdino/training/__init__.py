"""Training OVS-DINO on pseudo-masks: what a batch is, what it teaches, and the loop."""
