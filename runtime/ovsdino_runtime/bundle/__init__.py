"""The bundle on disk: its manifest, its kernels, and where models are found."""
