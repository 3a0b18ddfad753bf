import ctypes
import subprocess

import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.cuda import devices as gpu
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.cuda.driver import check_index


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch, tmp_path):
    """No version is known from an earlier call, nor from this machine's kernel module."""
    gpu.driver_version.cache_clear()
    monkeypatch.setattr(gpu, "MODULE_VERSION", tmp_path / "version")
    yield
    gpu.driver_version.cache_clear()


def test_no_driver_is_no_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "load_driver", lambda: None)
    assert find_gpus() == ()


def test_an_nvidia_smi_that_fails_is_no_version(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(gpu.subprocess, "run", fail)
    assert gpu.driver_version() == ""


class Driver:
    """The driver's library of a Jetson with one GPU, which has no nvidia-smi."""

    gpus = (("Orin", 8, 7),)

    def cuInit(self, _):  # noqa: N802
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, _length, device):  # noqa: N802
        name.value = self.gpus[device.value][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = self.gpus[device.value][attribute - 74]
        return 0

    def cuDeviceTotalMem_v2(self, size, _device):  # noqa: N802
        assert isinstance(size._obj, ctypes.c_size_t)
        size._obj.value = 8 << 30
        return 0


class TwoGpus(Driver):
    """CUDA lists the fastest first; nvidia-smi would list them by their place on the bus."""

    gpus = (("NVIDIA GeForce RTX 4090", 8, 9), ("NVIDIA T4", 7, 5))


def test_the_driver_answers_where_nvidia_smi_does_not(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    monkeypatch.setattr(gpu, "load_driver", Driver)
    assert find_gpus() == (
        Gpu(name="Orin", capability="sm_87", driver="CUDA 12.6", memory=8192, cuda="12.6"),
    )


def test_gpus_are_in_cudas_order_and_nvidia_smi_is_asked_once(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="580.65.06\n580.65.06\n")

    monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "load_driver", TwoGpus)
    for _ in range(3):
        assert [(found.name, found.capability, found.driver) for found in find_gpus()] == [
            ("NVIDIA GeForce RTX 4090", "sm_89", "580.65.06"),
            ("NVIDIA T4", "sm_75", "580.65.06"),
        ]
    assert len(asked) == 1


def test_the_kernel_module_says_the_version_without_nvidia_smi(monkeypatch):
    monkeypatch.setattr(gpu.subprocess, "run", pytest.fail)
    gpu.MODULE_VERSION.write_text("575.57.08\n")
    assert gpu.driver_version() == "575.57.08"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    check_index(1, 2)
    with pytest.raises(EngineError, match="no NVIDIA GPU that answers; use device 'cpu'"):
        check_index(0, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(EngineError, match=r"'cuda:1': CUDA sees 1 GPU \(CUDA_VISIBLE_DEVICES=1\)"):
        check_index(1, 1)
