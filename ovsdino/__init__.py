"""OVS-DINO and dinov3.seg in PyTorch: open-vocabulary segmentation that anyone can train and deploy.

Importing this package imports nothing else: take what you need from its modules, for example
``from ovsdino.network.checkpoint import load_model``.
"""

__version__ = "0.1.0"
