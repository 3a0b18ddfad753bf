"""CUDA through cuda-python (``cuda.bindings.driver``): wheels for x86-64 and aarch64, nothing to compile."""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

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
    refuse_fork,
)
from ovsdino_runtime.geometry.types import Array

Bindings: TypeAlias = Any  # the module cuda.bindings.driver, or an object of it
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
DOCTOR = "`ovsdino doctor` looks at the driver"


def import_driver() -> Bindings:
    """Import cuda-python's driver module.

    Raises:
        EngineError: it is not installed, or cannot be imported.
    """
    try:
        from cuda.bindings import driver
    except (ImportError, OSError) as error:
        raise EngineError(f"cuda-python cannot be imported ({error}); {INSTALL}") from error
    return driver


def call(driver: Bindings, name: str, *arguments: object) -> Any:  # noqa: ANN401 - as the function gives it
    """Call a function of the driver; return its result: None, a value, or a tuple of several.

    Raises:
        EngineError: the driver is missing, lacks the function, or reports an error.
    """
    try:
        code, *results = getattr(driver, name)(*arguments)
    except RuntimeError as error:  # no driver library, or one without this function
        reason = " ".join(str(error).split())
        raise EngineError(f"CUDA's {name} cannot be called: {reason}; {DOCTOR}") from error
    if int(code):
        raise EngineError(f"CUDA's {name} failed: {describe_error(driver, code)}; {DOCTOR}")
    if len(results) == 1:
        return results[0]
    return tuple(results) or None


def describe_error(driver: Bindings, code: Bindings) -> str:
    """Describe an error code, such as "CUDA_ERROR_OUT_OF_MEMORY: out of memory"."""
    failed, name = driver.cuGetErrorName(code)
    if int(failed) or name is None:
        return f"error {int(code)}"
    _, text = driver.cuGetErrorString(code)
    return f"{name.decode()}: {text.decode()}" if text else str(name.decode())


def open_cuda_python(index: int) -> "CudaPythonDevice":
    """Open a GPU through cuda-python.

    Raises:
        EngineError: cuda-python cannot be imported, CUDA does not start, or there is no such GPU.
    """
    driver = import_driver()
    call(driver, "cuInit", 0)
    check_index(index, call(driver, "cuDeviceGetCount"))
    return CudaPythonDevice(driver, index)


class CudaPythonDevice:
    """A GPU through cuda-python; see `Device`.

    Args:
        driver: the module ``cuda.bindings.driver``, after ``cuInit``.
        index: index of the GPU, in CUDA's order.
    """

    def __init__(self, driver: Bindings, index: int) -> None:
        self._driver = driver
        self._pid = os.getpid()
        self._device = self._call("cuDeviceGet", index)
        self.name = self._call("cuDeviceGetName", 128, self._device).rstrip(b"\0").decode()
        attributes = driver.CUdevice_attribute
        major, minor = (
            self._call(
                "cuDeviceGetAttribute",
                getattr(attributes, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"),
                self._device,
            )
            for part in ("MAJOR", "MINOR")
        )
        self.capability = f"sm_{major}{minor}"
        self.index = index
        self.captures = True
        self._context: Bindings = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._owned: list[tuple[str, Bindings]] = []  # the function that releases it, and the handle

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`."""
        refuse_fork(self._pid)
        if self._context is None:
            raise EngineError(f"{self.name}: the device is closed; load the model again")
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> Block:
        """See `Device.allocate`."""
        return CudaPythonBlock(self._driver, int(self._call("cuMemAlloc", size)))

    def pin(self, size: int) -> Pinned:
        """See `Device.pin`."""
        return CudaPythonPinned(self._driver, int(self._call("cuMemHostAlloc", size, 0)), size)

    def make_stream(self, name: str) -> CudaStream:  # noqa: ARG002 - for back ends that record what they do
        """See `Device.make_stream`."""
        stream = self._own("cuStreamDestroy", self._call("cuStreamCreate", NON_BLOCKING))
        return CudaPythonStream(self._driver, stream, int(stream))

    def make_event(self) -> Event:
        """See `Device.make_event`."""
        return CudaPythonEvent(self._driver, self._own("cuEventDestroy", self._call("cuEventCreate", 0)))

    def load(self, kernel: Kernel, ptx: bytes) -> Launch:
        """See `Device.load`."""
        module = self._own("cuModuleUnload", self._call("cuModuleLoadData", ptx + b"\0"))
        function = self._call("cuModuleGetFunction", module, kernel.entry.encode())
        if kernel.shared_memory > MAX_SHARED:
            attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call("cuFuncSetAttribute", function, attribute, kernel.shared_memory)
        names = [argument.name for argument in kernel.arguments]
        types = tuple(
            ctypes.c_int32 if argument.role == "integer" else ctypes.c_void_p for argument in kernel.arguments
        )
        block = (32 * kernel.num_warps, 1, 1)

        def launch(stream: CudaPythonStream, values: Mapping[str, int]) -> None:
            grid = tuple(axis.programs(values) for axis in kernel.grid)
            arguments = tuple(values[name] for name in names), types
            size = (*grid, *block, kernel.shared_memory)
            self._call("cuLaunchKernel", function, *size, stream.raw, arguments, 0)

        return launch  # type: ignore[return-value] # its streams are this device's

    def capture(self, stream: CudaStream, submit: Callable[[], None]) -> CudaGraph:
        """See `Device.capture`."""
        return capture(self._driver, stream.handle, submit)

    def close(self) -> None:
        """See `Device.close`."""
        if self._context is None:
            return
        with self.current():
            while self._owned:
                self._call(*self._owned.pop())
        self._context = None
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _own(self, release: str, handle: Bindings) -> Bindings:
        self._owned.append((release, handle))
        return handle

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - as the function gives it
        return call(self._driver, name, *arguments)


@dataclass(frozen=True)
class CudaPythonStream:
    """See `CudaStream`."""

    driver: Bindings
    raw: Bindings
    handle: int

    def record(self, event: "CudaPythonEvent") -> None:
        """See `CudaStream`."""
        call(self.driver, "cuEventRecord", event.raw, self.raw)

    def wait(self, event: "CudaPythonEvent") -> None:
        """See `CudaStream`."""
        call(self.driver, "cuStreamWaitEvent", self.raw, event.raw, 0)

    def copy_in(self, target: int, source: Array) -> None:
        """See `CudaStream`."""
        call(self.driver, "cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self.raw)

    def copy_out(self, target: Array, source: int) -> None:
        """See `CudaStream`."""
        call(self.driver, "cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self.raw)

    def synchronize(self) -> None:
        """See `CudaStream`."""
        call(self.driver, "cuStreamSynchronize", self.raw)


@dataclass(frozen=True)
class CudaPythonEvent:
    """See `Event`."""

    driver: Bindings
    raw: Bindings

    def synchronize(self) -> None:
        """See `Event`."""
        call(self.driver, "cuEventSynchronize", self.raw)

    def milliseconds_since(self, earlier: "CudaPythonEvent") -> float:
        """See `Event`."""
        return float(call(self.driver, "cuEventElapsedTime", earlier.raw, self.raw))


@dataclass(frozen=True)
class CudaPythonBlock:
    """See `Block`."""

    driver: Bindings
    address: int

    def free(self) -> None:
        """See `Block`."""
        call(self.driver, "cuMemFree", self.address)


class CudaPythonPinned:
    """See `Pinned`.

    Args:
        driver: the module ``cuda.bindings.driver``.
        address: host address of the page-locked memory.
        size: its size [bytes].
    """

    def __init__(self, driver: Bindings, address: int, size: int) -> None:
        self._driver = driver
        self._address = address
        memory = (ctypes.c_uint8 * size).from_address(address)
        self.array = np.ctypeslib.as_array(memory)

    def free(self) -> None:
        """See `Pinned`."""
        call(self._driver, "cuMemFreeHost", self._address)


class CudaPythonGraph:
    """An instantiated CUDA graph; see `CudaGraph`.

    Args:
        driver: the module ``cuda.bindings.driver``.
        executable: the driver's handle of the instantiated graph.
    """

    def __init__(self, driver: Bindings, executable: Bindings) -> None:
        self._driver = driver
        self._executable = executable

    def launch(self, stream: Any) -> None:  # noqa: ANN401 - of either back end
        """See `CudaGraph`."""
        call(self._driver, "cuGraphLaunch", self._executable, stream.handle)

    def free(self) -> None:
        """See `CudaGraph`."""
        call(self._driver, "cuGraphExecDestroy", self._executable)


def capture(driver: Bindings, handle: int, submit: Callable[[], None]) -> CudaPythonGraph:
    """Capture the work that ``submit`` submits, beginning and ending on a stream, without running it.

    Events may fork work to other streams if it joins the first stream again. Addresses and sizes are fixed by
    the capture; the data at the addresses may change. The capture mode is relaxed, because another thread, or
    the garbage collector in this one, may free memory meanwhile.

    Args:
        driver: the module ``cuda.bindings.driver``.
        handle: the driver's handle of the stream.
        submit: submits the work; must not wait or allocate.

    Raises:
        EngineError: the work cannot be captured.
    """
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    call(driver, "cuStreamBeginCapture", handle, mode)
    try:
        submit()
    except BaseException:
        _, graph = driver.cuStreamEndCapture(handle)  # ends the capture, whatever it returns
        if graph is not None and int(graph):
            driver.cuGraphDestroy(graph)
        raise
    graph = call(driver, "cuStreamEndCapture", handle)
    try:
        executable = call(driver, "cuGraphInstantiate", graph, 0)
    finally:
        driver.cuGraphDestroy(graph)
    return CudaPythonGraph(driver, executable)
