"""The training loop: steps, checkpoints and logs."""
