"""Run a TensorRT engine: one call at a time with nothing but the driver, or on streams of a pipeline.

The first is how an engine is proven on the golden photo; CUDA's few calls go to the driver by ctypes.
"""

import ctypes
import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.devices import find_gpus, load_driver
from ovsdino_runtime.engines.cache import (
    BATCHES,
    EngineKey,
    Flavour,
    find_engine,
    profile,
    read_engine,
    rebuild_command,
    source_digest,
)
from ovsdino_runtime.engines.onnxruntime import verify_golden
from ovsdino_runtime.engines.stream_engine import Place, Stream
from ovsdino_runtime.geometry.types import Array

Trt: TypeAlias = Any  # an object of TensorRT, which ships no types
MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "ovsdino[tensorrt]", "tensorrt-rtx": "ovsdino[rtx]"}
CONTEXTS = 2  # that run at once: while one computes, the windows of the other are cut
NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}


def import_flavour(flavour: Flavour) -> ModuleType:
    """Import TensorRT or TensorRT for RTX.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        jetson = "; on a Jetson use the one of JetPack" if flavour == "tensorrt" else ""
        raise EngineError(
            f"{flavour} needs the package {MODULES[flavour]}, which cannot be imported ({error}): "
            f"pip install '{EXTRAS[flavour]}'{jetson}"
        ) from error


def open_cached_engine(bundle: Bundle, graph: str, flavour: Flavour) -> "GpuEngine":
    """Open the engine of a vision graph that was built for this machine, and prove it on the golden photo.

    Raises:
        EngineError: there is no GPU, no engine that fits it, or the engine does not reproduce the model.
    """
    engine = read_cached_engine(bundle, graph, flavour)
    with naming_the_cure(bundle, flavour):
        verify_golden(bundle, engine)
    return engine


@contextmanager
def naming_the_cure(bundle: Bundle, flavour: Flavour) -> Iterator[None]:
    """Add the command that builds the engines again to what is wrong with one."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{error}; build it again: {rebuild_command(bundle, flavour)}") from error


def read_cached_engine(bundle: Bundle, graph: str, flavour: Flavour) -> "GpuEngine":
    """Read the engine of a graph that was built for this machine; nothing of it is proven yet.

    Raises:
        EngineError: there is no GPU, no engine that fits it, or TensorRT does not take it.
    """
    trt = import_flavour(flavour)
    gpu = next(iter(find_gpus()), None)
    if gpu is None:
        raise EngineError(f"{flavour}: this machine has no NVIDIA GPU that answers; use device 'cpu'")
    spec = bundle.manifest.graphs[graph]
    wanted = EngineKey(
        onnx=source_digest(bundle, graph, flavour),
        flavour=flavour,
        version=trt.__version__,
        capabilities=(gpu.capability,),
        gpu=gpu.name,
        driver=gpu.driver,
        precision=spec.precision,
        batches=profile(bundle, graph),
    )
    record = find_engine(bundle, graph, wanted, gpu)
    with naming_the_cure(bundle, flavour):
        return GpuEngine(read_engine(record), flavour)


class GpuEngine:
    """A TensorRT engine on the first GPU.

    Args:
        data: what the builder wrote.
        flavour: which TensorRT wrote it.

    Raises:
        EngineError: TensorRT does not take it, or there is no driver.
    """

    def __init__(self, data: bytes, flavour: Flavour) -> None:
        trt = import_flavour(flavour)
        self._driver = _Driver()
        self._trt = trt
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineError(
                f"{flavour} {trt.__version__} does not take the engine; it is of another GPU or version"
            )
        self._contexts = [self._engine.create_execution_context()]
        self._context = self._contexts[0]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (self._engine.get_tensor_dtype(name).name, tuple(self._engine.get_tensor_shape(name)))
            for name in names
        }
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = set(inputs)
        self.outputs = [name for name in names if name not in self.inputs]
        self.description = f"{flavour} {trt.__version__} on {self._driver.name}"
        self.contexts = CONTEXTS
        self.max_count = BATCHES[1]
        self.capturable = flavour == "tensorrt"  # the other one's kernels are still being chosen as it runs

    def inspect(self) -> str:
        """Describe the engine's layers in JSON, as TensorRT's inspector does."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name.

        Raises:
            EngineError: a shape is outside the profile, or CUDA failed.
        """
        self._driver.enter()
        with ExitStack() as stack:
            for name, given in inputs.items():
                array = np.ascontiguousarray(given, NUMPY_TYPES[self.tensors[name][0]])
                if not self._context.set_input_shape(name, array.shape):
                    raise EngineError(
                        f"{self.description}: {name} {array.shape} is outside batches {BATCHES}"
                    )
                self._context.set_tensor_address(name, self._driver.copy_in(array, stack))
            results = {name: self._make_output(name) for name in self.outputs}
            places = {name: self._driver.allocate(array.nbytes, stack) for name, array in results.items()}
            for name, place in places.items():
                self._context.set_tensor_address(name, place)
            stream = self._driver.make_stream(stack)
            if not self._context.execute_async_v3(stream):
                raise EngineError(f"{self.description}: the engine did not run; its reason is above")
            self._driver.synchronize(stream)
            for name, place in places.items():
                self._driver.copy_out(results[name], place)
        return results

    def enqueue(
        self, context: int, inputs: Mapping[str, Place], outputs: Mapping[str, Place], stream: Stream
    ) -> None:
        """See `StreamEngine`."""
        while len(self._contexts) <= context:
            self._contexts.append(self._engine.create_execution_context())
        runs = self._contexts[context]
        for name, place in inputs.items():
            if not runs.set_input_shape(name, place.shape):
                raise EngineError(f"{self.description}: {name} {place.shape} is outside batches {BATCHES}")
        for name, place in (*inputs.items(), *outputs.items()):
            runs.set_tensor_address(name, place.address)
        if not runs.execute_async_v3(stream.handle):
            raise EngineError(f"{self.description}: the engine did not run; its reason is above")

    def _make_output(self, name: str) -> Array:
        shape = tuple(self._context.get_tensor_shape(name))
        return np.empty(shape, NUMPY_TYPES[self.tensors[name][0]])


class _Driver:
    """The calls of CUDA's driver that one run needs, on the first GPU's primary context, as in TensorRT."""

    def __init__(self) -> None:
        library = load_driver()
        gpu = next(iter(find_gpus()), None)
        if library is None or gpu is None:
            raise EngineError("this machine has no NVIDIA GPU that answers; use device 'cpu'")
        self.name = gpu.name
        self._library = library
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()

    def enter(self) -> None:
        """Make the context the calling thread's: an engine may be run by another one than opened it."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int, stack: ExitStack) -> int:
        """Take memory [bytes] that the stack gives back; return its address."""
        place = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        stack.callback(self._call, "cuMemFree_v2", place)
        return place.value

    def copy_in(self, array: Array, stack: ExitStack) -> int:
        """Copy an array to the GPU; return its address."""
        place = self.allocate(array.nbytes, stack)
        source = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(place), source, ctypes.c_size_t(array.nbytes))
        return place

    def copy_out(self, array: Array, place: int) -> None:
        """Fill an array from the GPU."""
        target = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(place), ctypes.c_size_t(array.nbytes))

    def make_stream(self, stack: ExitStack) -> int:
        """Make a stream that the stack destroys; return its handle."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        stack.callback(self._call, "cuStreamDestroy_v2", stream)
        return stream.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait for all work on a stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise EngineError(f"CUDA's {name} failed with error {code}; `ovsdino doctor` looks at the driver")
