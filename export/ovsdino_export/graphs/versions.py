"""Versions of the programs with which a bundle was made."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module, metadata


def program_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages.

    ONNX Runtime is asked for its own version, because its package has several names, such as onnxruntime-gpu.

    Raises:
        PackageNotFoundError: a package is not installed.
    """
    return {
        name: import_module(name).__version__ if name == "onnxruntime" else metadata.version(name)
        for name in packages
    }
