"""CUDA through pycuda, which only this module imports. pycuda lacks CUDA graphs: cuda-python adds them.

pycuda frees an object only in a thread in which its context is current: each free runs in `Device.current`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.kernels import Kernel
from ovsdino_runtime.cuda.driver import (
    INSTALL,
    MAX_SHARED,
    Block,
    CudaGraph,
    CudaStream,
    Event,
    Launch,
    Pinned,
    check_index,
    is_installed,
    refuse_fork,
)
from ovsdino_runtime.geometry.types import Array

Pycuda: TypeAlias = Any  # an object of pycuda, which ships no types
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream


def open_pycuda(index: int) -> "PycudaDevice":
    """Open a GPU through pycuda.

    Raises:
        EngineError: pycuda cannot be imported, CUDA does not start, or there is no such GPU.
    """
    try:
        import pycuda.driver as driver
    except (ImportError, OSError) as error:
        raise EngineError(f"pycuda cannot be imported ({error}); {INSTALL}") from error
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise EngineError(f"CUDA does not start: {error}; `ovsdino doctor` looks at the driver") from error
    check_index(index, count)
    return PycudaDevice(driver, index)


class PycudaDevice:
    """A GPU through pycuda; see `Device`.

    Args:
        driver: the module ``pycuda.driver``, initialised.
        index: index of the GPU, in CUDA's order.
    """

    def __init__(self, driver: Pycuda, index: int) -> None:
        self._driver = driver
        self._pid = os.getpid()
        device = driver.Device(index)
        self._context = device.retain_primary_context()
        self.name: str = device.name()
        self.capability = "sm_{}{}".format(*device.compute_capability())
        self.index = index
        self.captures = is_installed("cuda-python")
        self._owned: list[Pycuda] = []  # streams, events, modules: dropped in `close`, in the context

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`."""
        refuse_fork(self._pid)
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise EngineError(f"{self.name}: {error}; `ovsdino doctor` looks at the driver") from error
        finally:
            self._driver.Context.pop()

    def allocate(self, size: int) -> Block:
        """See `Device.allocate`."""
        return PycudaBlock(self._driver.mem_alloc(size))

    def pin(self, size: int) -> Pinned:
        """See `Device.pin`."""
        return PycudaPinned(self._driver.pagelocked_empty((size,), np.uint8))

    def make_stream(self, name: str) -> CudaStream:  # noqa: ARG002 - for back ends that record what they do
        """See `Device.make_stream`."""
        stream = self._driver.Stream(NON_BLOCKING)
        self._owned.append(stream)
        return PycudaStream(self._driver, stream)

    def make_event(self) -> Event:
        """See `Device.make_event`."""
        event = self._driver.Event()
        self._owned.append(event)
        return PycudaEvent(event)

    def load(self, kernel: Kernel, ptx: bytes) -> Launch:
        """See `Device.load`."""
        module = self._driver.module_from_buffer(ptx + b"\0")
        function = module.get_function(kernel.entry)
        self._owned += [function, module]
        if kernel.shared_memory > MAX_SHARED:
            attribute = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            function.set_attribute(attribute, kernel.shared_memory)
        layout = ["i" if argument.role == "integer" else "P" for argument in kernel.arguments]
        function.prepare(layout)
        block = (32 * kernel.num_warps, 1, 1)

        def launch(stream: PycudaStream, values: Mapping[str, int]) -> None:
            grid = tuple(axis.programs(values) for axis in kernel.grid)
            arguments = [values[argument.name] for argument in kernel.arguments]
            shared = kernel.shared_memory
            function.prepared_async_call(grid, block, stream.raw, *arguments, shared_size=shared)

        return launch  # type: ignore[return-value] # its streams are this device's

    def capture(self, stream: CudaStream, submit: Callable[[], None]) -> CudaGraph:
        """See `Device.capture`. Needs cuda-python in addition to pycuda."""
        from ovsdino_runtime.cuda.cuda_python import capture, import_driver

        return capture(import_driver(), stream.handle, submit)

    def close(self) -> None:
        """See `Device.close`."""
        if self._owned:
            with self.current():
                self._owned.clear()


@dataclass(frozen=True)
class PycudaStream:
    """See `CudaStream`."""

    driver: Pycuda
    raw: Pycuda

    @property
    def handle(self) -> int:
        """See `CudaStream`."""
        return int(self.raw.handle)

    def record(self, event: "PycudaEvent") -> None:
        """See `CudaStream`."""
        event.raw.record(self.raw)

    def wait(self, event: "PycudaEvent") -> None:
        """See `CudaStream`."""
        self.raw.wait_for_event(event.raw)

    def copy_in(self, target: int, source: Array) -> None:
        """See `CudaStream`."""
        self.driver.memcpy_htod_async(target, source, self.raw)

    def copy_out(self, target: Array, source: int) -> None:
        """See `CudaStream`."""
        self.driver.memcpy_dtoh_async(target, source, self.raw)

    def synchronize(self) -> None:
        """See `CudaStream`."""
        self.raw.synchronize()


@dataclass(frozen=True)
class PycudaEvent:
    """See `Event`."""

    raw: Pycuda

    def synchronize(self) -> None:
        """See `Event`."""
        self.raw.synchronize()

    def milliseconds_since(self, earlier: "PycudaEvent") -> float:
        """See `Event`."""
        return float(self.raw.time_since(earlier.raw))


class PycudaBlock:
    """See `Block`.

    Args:
        raw: pycuda's allocation.
    """

    def __init__(self, raw: Pycuda) -> None:
        self._raw = raw
        self.address = int(raw)

    def free(self) -> None:
        """See `Block`."""
        self._raw.free()


class PycudaPinned:
    """See `Pinned`.

    Args:
        array: all bytes of the page-locked memory.
    """

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.array = array
        self._raw: Pycuda = array.base

    def free(self) -> None:
        """See `Pinned`."""
        self._raw.free()
