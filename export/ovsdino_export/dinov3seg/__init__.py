"""Export dinov3.seg: its graphs, their rewriting and their comparison."""
