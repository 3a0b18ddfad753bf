"""The CUDA interface that the rest of the runtime uses, and the choice of its back end.

Two back ends implement it: `pycuda` (package pycuda) and `cuda_python` (package cuda-python). Both share the
device's primary context with TensorRT, ONNX Runtime and torch, and make it current only in `Device.current`.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.bundle.kernels import Kernel
from ovsdino_runtime.geometry.types import Array

Backend = Literal["pycuda", "cuda-python"]
MODULES: dict[Backend, str] = {"pycuda": "pycuda", "cuda-python": "cuda.bindings"}
VARIABLE = "OVSDINO_CUDA"  # environment variable that chooses the back end
MAX_SHARED = 48 << 10  # [bytes] of dynamic shared memory per block without an attribute of the function
INSTALL = f"{install_command('cuda')} (wheels), or {install_command('pycuda')} (needs a C++ compiler)"


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Wait until the work submitted before the event has finished."""

    def milliseconds_since(self, earlier: Any) -> float:  # noqa: ANN401 - an event of the same device
        """Return the time between an earlier event and this one [ms]; both must have completed."""


class CudaStream(Protocol):
    """A queue of work on the device, executed in order."""

    @property
    def handle(self) -> int:
        """The driver's handle of the stream, as engines expect it."""

    def record(self, event: Any) -> None:  # noqa: ANN401 - an event of the same device
        """Record an event after the work submitted so far."""

    def wait(self, event: Any) -> None:  # noqa: ANN401
        """Make work submitted from now on wait for an event."""

    def copy_in(self, target: int, source: Array) -> None:
        """Copy from pinned memory to a device address."""

    def copy_out(self, target: Array, source: int) -> None:
        """Copy from a device address to pinned memory."""

    def synchronize(self) -> None:
        """Wait until all work submitted so far has finished."""


class Block(Protocol):
    """A block of device memory."""

    @property
    def address(self) -> int:
        """Device address of its first byte."""

    def free(self) -> None:
        """Free it."""


class Pinned(Protocol):
    """Page-locked host memory, which the device reads and writes without the CPU."""

    array: npt.NDArray[np.uint8]

    def free(self) -> None:
        """Free it."""


class CudaGraph(Protocol):
    """A captured sequence of work that is launched with one call."""

    def launch(self, stream: Any) -> None:  # noqa: ANN401 - a stream of the same device
        """Submit the whole sequence to a stream."""

    def free(self) -> None:
        """Free it."""


Launch = Callable[[CudaStream, Mapping[str, int]], None]  # arguments by name: addresses and integers


class Device(Protocol):
    """A GPU, or a replacement for one in tests."""

    name: str
    capability: str  # such as "sm_89"
    index: int  # in CUDA's order, among those that CUDA_VISIBLE_DEVICES leaves
    captures: bool  # whether `capture` works

    def current(self) -> AbstractContextManager[None]:
        """Make the device's context current in the calling thread; turn CUDA errors into `EngineError`."""

    def allocate(self, size: int) -> Block:
        """Allocate device memory [bytes]."""

    def pin(self, size: int) -> Pinned:
        """Allocate page-locked host memory [bytes]."""

    def make_stream(self, name: str) -> CudaStream:
        """Create a stream that does not wait for the default stream; ``name`` appears in traces."""

    def make_event(self) -> Event:
        """Create an event."""

    def load(self, kernel: Kernel, ptx: bytes) -> Launch:
        """Load a kernel; return a function that launches it on a stream, with its arguments by name."""

    def capture(self, stream: CudaStream, submit: Callable[[], None]) -> CudaGraph:
        """Capture the work that ``submit`` submits, beginning and ending on a stream, without running it."""

    def close(self) -> None:
        """Release streams, events, kernels and the context. Free blocks and graphs before."""


def open_cuda(index: int = 0) -> Device:
    """Open a GPU through the back end that `choose_backend` returns.

    Args:
        index: index of the GPU, in CUDA's order.

    Raises:
        EngineError: no back end is installed, CUDA does not start, or there is no such GPU.
    """
    if choose_backend() == "pycuda":
        from ovsdino_runtime.cuda.pycuda import open_pycuda

        return open_pycuda(index)
    from ovsdino_runtime.cuda.cuda_python import open_cuda_python

    return open_cuda_python(index)


def choose_backend() -> Backend:
    """Choose the back end: the one named by ``OVSDINO_CUDA``; else pycuda if installed, else cuda-python.

    Raises:
        EngineError: ``OVSDINO_CUDA`` names an unknown back end, or neither is installed.
    """
    asked = os.environ.get(VARIABLE, "")
    installed = [backend for backend in MODULES if is_installed(backend)]
    if asked:
        wanted = next((backend for backend in MODULES if backend == asked), None)
        if wanted is None:
            raise EngineError(f"{VARIABLE}={asked}: expected {' or '.join(MODULES)}")
        if wanted not in installed:
            raise EngineError(f"{VARIABLE}={asked}: {asked} is not installed; {INSTALL}")
        return wanted
    if not installed:
        raise EngineError(f"device 'cuda' needs cuda-python or pycuda, and neither is installed: {INSTALL}")
    return installed[0]


def is_installed(backend: Backend) -> bool:
    """Tell whether the package of a back end is installed, without importing it."""
    try:
        return find_spec(MODULES[backend]) is not None
    except (ImportError, ValueError):  # its parent package is missing, or blocked by a test
        return False


def refuse_fork(opened_by: int) -> None:
    """Reject the use of a device in a process that was forked after the device was opened.

    Args:
        opened_by: ID of the process that opened the device.

    Raises:
        EngineError: this is another process.
    """
    if os.getpid() != opened_by:
        raise EngineError(
            "this process was forked after CUDA was opened, and CUDA does not work in a forked process; "
            "load the model in the new process, or start it with multiprocessing's 'spawn'"
        )


def check_index(index: int, count: int) -> None:
    """Reject the index of a GPU that does not exist.

    Raises:
        EngineError: there is no such GPU; the message says how many CUDA sees.
    """
    if count == 0:
        raise EngineError("this machine has no NVIDIA GPU that answers; use device 'cpu'")
    if not 0 <= index < count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        raise EngineError(
            f"device 'cuda:{index}': CUDA sees {count} GPU{'s' * (count > 1)}{why}, numbered from 0"
        )
