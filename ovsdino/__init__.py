"""OVS-DINO and dinov3.seg in PyTorch: open-vocabulary segmentation that anyone can train and deploy.

Importing this package imports nothing else; its public names are imported on first use:

>>> from ovsdino import OVSDINO, PRESETS
>>> network = OVSDINO(PRESETS["nano"])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovsdino.network.config import PRESETS, ModelConfig
    from ovsdino.network.model import OVSDINO

__version__ = "0.1.0"
__all__ = ["OVSDINO", "PRESETS", "ModelConfig", "__version__"]
_MODULES = {"OVSDINO": "model", "ModelConfig": "config", "PRESETS": "config"}


def __getattr__(name: str) -> object:
    """Import a public name on first use: `ovsdino --help` must not import torch."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ovsdino.network.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
