import subprocess

from ovsdino_runtime.cuda import devices as gpu
from ovsdino_runtime.cuda.devices import Gpu, find_gpus, parse_nvidia_smi

SMI = """NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564
NVIDIA H200, 9.0, 580.65.06, 143771
Orin (nvgpu), [N/A], 540.3.0, [N/A]
"""


def test_nvidia_smi_is_read():
    assert parse_nvidia_smi(SMI) == (
        Gpu("NVIDIA GeForce RTX 4090", "sm_89", "580.65.06", 24564),
        Gpu("NVIDIA H200", "sm_90", "580.65.06", 143771),
    )
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n") == ()


def test_no_driver_is_no_gpu(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    monkeypatch.setattr(gpu, "load_driver", lambda: None)
    assert find_gpus() == ()


def test_an_nvidia_smi_that_fails_is_no_gpu(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(gpu.subprocess, "run", fail)
    assert gpu.ask_nvidia_smi() == ()


class Driver:
    """The driver's library of a Jetson with one GPU, which has no nvidia-smi."""

    def cuInit(self, _):  # noqa: N802
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, _length, _device):  # noqa: N802
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, _device):  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def test_the_driver_answers_where_nvidia_smi_does_not(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    monkeypatch.setattr(gpu, "load_driver", Driver)
    assert find_gpus() == (Gpu("Orin", "sm_87", "CUDA 12.6"),)
