"""Windows, resizing, merging, metrics and run lengths: numpy only, shared by training and evaluation."""
