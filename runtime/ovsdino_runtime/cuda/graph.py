"""CUDA graphs through the driver's library, for pycuda has none: a sequence taken down once, launched as one.

Work may spread to other streams by events as long as it comes back to the first. Addresses and sizes are
those of the capture; what lies at the addresses may change.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.cuda.devices import load_driver

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


class Graph(Protocol):
    """A sequence of work that is launched as one."""

    def launch(self, stream: Any) -> None:  # noqa: ANN401 - a stream of the same device
        """Submit all of it to a stream."""

    def free(self) -> None:
        """Give it back."""


class CudaGraph:
    """An instantiated graph.

    Args:
        library: the driver's.
        executable: the driver's handle.
    """

    def __init__(self, library: ctypes.CDLL, executable: ctypes.c_void_p) -> None:
        self._library = library
        self._executable = executable

    def launch(self, stream: Any) -> None:  # noqa: ANN401
        """See `Graph`."""
        _call(self._library, "cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        """See `Graph`."""
        _call(self._library, "cuGraphExecDestroy", self._executable)


def capture(handle: int, submit: Callable[[], None]) -> CudaGraph:
    """Take down what a function submits, beginning and ending on a stream; nothing of it runs yet.

    Args:
        handle: of the stream.
        submit: submits the work, waits for nothing and allocates nothing.

    Raises:
        EngineError: the work cannot be captured.
    """
    library = load_driver()
    if library is None:
        raise EngineError("CUDA's driver library cannot be loaded; `ovsdino doctor` looks at the driver")
    stream, graph, executable = ctypes.c_void_p(handle), ctypes.c_void_p(), ctypes.c_void_p()
    _call(library, "cuStreamBeginCapture_v2", stream, ctypes.c_int(THREAD_LOCAL))
    try:
        submit()
    except BaseException:
        library.cuStreamEndCapture(stream, ctypes.byref(graph))  # leaves the capture, whatever it says
        if graph:
            library.cuGraphDestroy(graph)
        raise
    _call(library, "cuStreamEndCapture", stream, ctypes.byref(graph))
    try:
        _call(library, "cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
    finally:
        library.cuGraphDestroy(graph)
    return CudaGraph(library, executable)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    if code := getattr(library, name)(*arguments):
        raise EngineError(f"CUDA's {name} failed with error {code}; `ovsdino doctor` looks at the driver")
