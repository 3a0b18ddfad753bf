"""The environment of a measurement: machine, versions and command."""

import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from ovsdino_runtime.engines.threads import available_threads

PACKAGES = (
    *("ovsdino", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "tokenizers"),
    *("triton", "pycuda", "tensorrt", "openvino", "opencv-python-headless"),
)
CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True)
class Environment:
    """Machine, load and versions at the time of a measurement."""

    date: str  # UTC
    processor: str
    processors: int  # that this process may use
    clock: str
    memory_gb: float
    load: float  # average of one minute at the start, ours included
    system: str
    python: str
    packages: dict[str, str]  # name -> version, of those that are installed


def read_environment() -> Environment:
    """Read the environment of this machine."""
    return Environment(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        processor=_cpuinfo("model name") or platform.processor() or platform.machine(),
        processors=available_threads(),
        clock=_clock(),
        memory_gb=round(memory("MemTotal", Path("/proc/meminfo")) / 1000, 1),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
    )


def command() -> str:
    """Return the current command line."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def memory(field: str, file: Path = Path("/proc/self/status")) -> float:
    """Read a value of Linux's memory tables [MB]; 0 on other systems."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{field}:")), 0.0)


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _clock() -> str:
    now = _cpuinfo("cpu MHz")
    governor = CPU_FOLDER / "scaling_governor"
    how = governor.read_text().strip() if governor.is_file() else "governor unknown"
    return f"{float(now):.0f} MHz, {how}" if now else how


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
