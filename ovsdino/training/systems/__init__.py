"""The two systems that the loop can train: networks, losses and validation."""
