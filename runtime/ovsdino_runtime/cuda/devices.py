"""The NVIDIA GPUs of this machine, asked without any CUDA package: the driver alone answers."""

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

QUERY = "name,compute_cap,driver_version,memory.total"
TIMEOUT = 20  # [s] nvidia-smi takes a second or two on a sleeping GPU
NAME_LENGTH = 256  # [bytes] the driver's own limit
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    capability: str  # such as "sm_89"
    driver: str  # version, such as "580.65.06"; of CUDA where only that is known, such as "CUDA 12.6"
    memory: int = 0  # [MiB], 0 where it is not known


def find_gpus() -> tuple[Gpu, ...]:
    """List the GPUs; none where there is no GPU, no driver, or the driver does not work."""
    return ask_nvidia_smi() or ask_driver()


def ask_nvidia_smi() -> tuple[Gpu, ...]:
    """List what nvidia-smi lists; nothing where it is absent, as on many Jetsons, or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """Read nvidia-smi's lines of `QUERY`; lines without a compute capability are left out."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 4 or not re.fullmatch(r"\d+\.\d", cells[1]):
            continue
        name, capability, driver, memory = cells
        known = int(memory) if memory.isdigit() else 0
        gpus.append(Gpu(name, f"sm_{capability.replace('.', '')}", driver, known))
    return tuple(gpus)


def ask_driver() -> tuple[Gpu, ...]:
    """List what the driver's library lists, without making a context on any GPU."""
    driver = load_driver()
    if driver is None or driver.cuInit(0) != 0:
        return ()
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    gpus = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH)
        major, minor = ctypes.c_int(), ctypes.c_int()
        failed = (
            driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDeviceGetName(name, NAME_LENGTH, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
        )
        if not failed:
            gpus.append(Gpu(name.value.decode(), f"sm_{major.value}{minor.value}", cuda))
    return tuple(gpus)


def load_driver() -> ctypes.CDLL | None:
    """Load the driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
