"""The versions of the programs that made a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module, metadata


def program_versions(packages: Iterable[str]) -> dict[str, str]:
    """Look up the versions of packages that are installed.

    ONNX Runtime reports its own version: it is installed under one of several names, such as onnxruntime-gpu.

    Raises:
        PackageNotFoundError: one is not installed.
    """
    return {
        name: import_module(name).__version__ if name == "onnxruntime" else metadata.version(name)
        for name in packages
    }
