"""List the NVIDIA GPUs of this machine through the driver's library, without any CUDA package.

The order is CUDA's, after CUDA_VISIBLE_DEVICES. nvidia-smi orders GPUs differently; it is called only for the
driver version, once per process, and only if the kernel module does not report it.
"""

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TIMEOUT = 20  # [s] nvidia-smi takes a second or two on a sleeping GPU
NAME_LENGTH = 256  # [bytes] the driver's own limit
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
MODULE_VERSION = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    capability: str  # such as "sm_89"
    driver: str  # version, such as "580.65.06"; of CUDA where only that is known, such as "CUDA 12.6"
    memory: int = 0  # [MiB], 0 where it is not known
    cuda: str = ""  # newest CUDA that the driver runs, such as "12.6"


def find_gpus() -> tuple[Gpu, ...]:
    """List the GPUs in CUDA's order; empty without a GPU or a working driver."""
    driver = load_driver()
    if driver is None or driver.cuInit(0) != 0:
        return ()
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    described = (describe_gpu(driver, index, cuda) for index in range(count.value))
    return tuple(gpu for gpu in described if gpu is not None)


def describe_gpu(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu | None:
    """Describe a GPU without creating a context on it; None if the driver does not answer."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, NAME_LENGTH, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    )
    if failed:
        return None
    if driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device):
        memory.value = 0
    capability = f"sm_{major.value}{minor.value}"
    return Gpu(
        name=name.value.decode(),
        capability=capability,
        driver=driver_version() or f"CUDA {cuda}",
        memory=memory.value >> 20,
        cuda=cuda,
    )


@cache
def driver_version() -> str:
    """Return the driver's version, such as "580.65.06"; "" if it is unknown, as on many Jetsons."""
    try:
        text = MODULE_VERSION.read_text(encoding="ascii")
    except OSError:
        text = ask_nvidia_smi()
    version = text.strip().partition("\n")[0].strip()
    return version if re.fullmatch(r"\d+(\.\d+)+", version) else ""


def ask_nvidia_smi() -> str:
    """Ask nvidia-smi for the driver's version; "" if nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def load_driver() -> ctypes.CDLL | None:
    """Load the driver's library; None if it is missing."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
