"""CUDA behind a small interface: memory, streams, events, kernels, graphs. pycuda is used here alone.

The primary context is shared with TensorRT, ONNX Runtime and torch, and current only in `Device.current`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.bundle.kernels import Kernel
from ovsdino_runtime.cuda.graph import Graph, capture
from ovsdino_runtime.geometry.types import Array

Pycuda: TypeAlias = Any  # an object of pycuda, which ships no types
NON_BLOCKING = 1  # a stream that does not wait for the default stream, on which others may work
MAX_SHARED = 48 << 10  # [bytes] of a block, unless the function is told of more
INSTALL = (
    f"{install_command('cuda')}; pycuda is compiled while it is installed, which needs a C++ compiler and "
    "CUDA's headers (put CUDA's bin folder, the one with nvcc, on the PATH)"
)


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""

    def milliseconds_since(self, earlier: Any) -> float:  # noqa: ANN401 - an event of the same device
        """Measure from another event to this one [ms]; both have passed."""


class Stream(Protocol):
    """Work in order, on the device."""

    @property
    def handle(self) -> int:
        """The driver's handle, which engines take."""

    def record(self, event: Any) -> None:  # noqa: ANN401 - an event of the same device
        """Let an event pass when the work so far is done."""

    def wait(self, event: Any) -> None:  # noqa: ANN401
        """Start what comes next when an event has passed."""

    def copy_in(self, target: int, source: Array) -> None:
        """Copy from pinned memory to an address."""

    def copy_out(self, target: Array, source: int) -> None:
        """Copy from an address to pinned memory."""

    def synchronize(self) -> None:
        """Wait for all work so far."""


class Block(Protocol):
    """Memory of the device."""

    address: int

    def free(self) -> None:
        """Give it back."""


class Pinned(Protocol):
    """Memory of the host that the device copies from and to by itself."""

    array: npt.NDArray[np.uint8]

    def free(self) -> None:
        """Give it back."""


Launch = Callable[[Stream, Mapping[str, int]], None]  # arguments by name: addresses and integers


class Device(Protocol):
    """A GPU, or what stands for one in a test."""

    name: str
    capability: str  # such as "sm_89"

    def current(self) -> AbstractContextManager[None]:
        """Make the device the calling thread's; its errors leave as `EngineError`."""

    def allocate(self, size: int) -> Block:
        """Take memory of the device [bytes]."""

    def pin(self, size: int) -> Pinned:
        """Take memory of the host [bytes] that the device copies from and to by itself."""

    def make_stream(self, name: str) -> Stream:
        """Make a stream; the name is for people."""

    def make_event(self) -> Event:
        """Make an event."""

    def load(self, kernel: Kernel, ptx: bytes) -> Launch:
        """Load a kernel, which is then called with a stream and its arguments by name."""

    def capture(self, stream: Stream, submit: Callable[[], None]) -> Graph:
        """Take down what a function submits, beginning and ending on a stream, to be launched as one."""


def open_cuda() -> Device:
    """Open the first GPU.

    Raises:
        EngineError: pycuda is not installed, or there is no GPU.
    """
    try:
        import pycuda.driver as driver
    except (ImportError, OSError) as error:
        raise EngineError(
            f"device 'cuda' needs pycuda, which cannot be imported ({error}): {INSTALL}"
        ) from error
    try:
        driver.init()
        found = driver.Device.count()
    except driver.Error as error:
        raise EngineError(f"CUDA does not start: {error}; `ovsdino doctor` looks at the driver") from error
    if not found:
        raise EngineError("this machine has no NVIDIA GPU that answers; use device 'cpu'")
    return CudaDevice(driver)


class CudaDevice:
    """The first GPU, through pycuda.

    Args:
        driver: the module ``pycuda.driver``, initialised.
    """

    def __init__(self, driver: Pycuda) -> None:
        self._driver = driver
        device = driver.Device(0)
        self._context = device.retain_primary_context()
        self.name: str = device.name()
        self.capability = "sm_{}{}".format(*device.compute_capability())

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`."""
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise EngineError(f"{self.name}: {error}; `ovsdino doctor` looks at the driver") from error
        finally:
            self._driver.Context.pop()

    def allocate(self, size: int) -> Block:
        """See `Device.allocate`."""
        return CudaBlock(self._driver.mem_alloc(size))

    def pin(self, size: int) -> Pinned:
        """See `Device.pin`."""
        return CudaPinned(self._driver.pagelocked_empty((size,), np.uint8))

    def make_stream(self, name: str) -> Stream:  # noqa: ARG002 - for back ends that record what they do
        """See `Device.make_stream`."""
        return CudaStream(self._driver, self._driver.Stream(NON_BLOCKING))

    def make_event(self) -> Event:
        """See `Device.make_event`."""
        return CudaEvent(self._driver.Event())

    def load(self, kernel: Kernel, ptx: bytes) -> Launch:
        """See `Device.load`."""
        function = self._driver.module_from_buffer(ptx + b"\0").get_function(kernel.entry)
        if kernel.shared_memory > MAX_SHARED:
            attribute = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            function.set_attribute(attribute, kernel.shared_memory)
        layout = ["i" if argument.role == "integer" else "P" for argument in kernel.arguments]
        function.prepare(layout)
        block = (32 * kernel.num_warps, 1, 1)

        def launch(stream: CudaStream, values: Mapping[str, int]) -> None:
            grid = tuple(axis.programs(values) for axis in kernel.grid)
            arguments = [values[argument.name] for argument in kernel.arguments]
            shared = kernel.shared_memory
            function.prepared_async_call(grid, block, stream.raw, *arguments, shared_size=shared)

        return launch  # type: ignore[return-value] # its streams are this device's

    def capture(self, stream: Stream, submit: Callable[[], None]) -> Graph:
        """See `Device.capture`."""
        return capture(stream.handle, submit)


@dataclass(frozen=True)
class CudaStream:
    """A stream of pycuda's."""

    driver: Pycuda
    raw: Pycuda

    @property
    def handle(self) -> int:
        """See `Stream`."""
        return int(self.raw.handle)

    def record(self, event: "CudaEvent") -> None:
        """See `Stream`."""
        event.raw.record(self.raw)

    def wait(self, event: "CudaEvent") -> None:
        """See `Stream`."""
        self.raw.wait_for_event(event.raw)

    def copy_in(self, target: int, source: Array) -> None:
        """See `Stream`."""
        self.driver.memcpy_htod_async(target, source, self.raw)

    def copy_out(self, target: Array, source: int) -> None:
        """See `Stream`."""
        self.driver.memcpy_dtoh_async(target, source, self.raw)

    def synchronize(self) -> None:
        """See `Stream`."""
        self.raw.synchronize()


@dataclass(frozen=True)
class CudaEvent:
    """An event of pycuda's."""

    raw: Pycuda

    def synchronize(self) -> None:
        """See `Event`."""
        self.raw.synchronize()

    def milliseconds_since(self, earlier: "CudaEvent") -> float:
        """See `Event`."""
        return float(self.raw.time_since(earlier.raw))


class CudaBlock:
    """Memory of pycuda's.

    Args:
        raw: the allocation.
    """

    def __init__(self, raw: Pycuda) -> None:
        self._raw = raw
        self.address = int(raw)

    def free(self) -> None:
        """See `Block`."""
        self._raw.free()


class CudaPinned:
    """Pinned memory of pycuda's.

    Args:
        array: all of it.
    """

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.array = array
        self._raw: Pycuda = array.base

    def free(self) -> None:
        """See `Pinned`."""
        self._raw.free()
