"""Identify the machine of a measurement or a check: its processor and its engines' versions."""

import hashlib
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}


@cache
def processor_name() -> str:
    """Return the processor's model name on Linux, elsewhere the name from Python's `platform`."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


@cache
def processor_features() -> str:
    """Hash the instruction sets of the processor on Linux; elsewhere "".

    Virtual machines of one name may have different ones.
    """
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = ("flags", "Features")  # x86, ARM
    flags = next((line.partition(":")[2] for line in lines if line.startswith(names)), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()


def engine_version(name: str) -> str:
    """Return the version of an installed engine without importing it; "" if unknown."""
    from importlib import metadata  # the import takes 15 ms, and only this function needs it

    found = (next(iter(metadata.distributions(name=package)), None) for package in PACKAGES[name])
    return next((package.version for package in found if package is not None), "")
