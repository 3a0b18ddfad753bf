"""TensorRT on a GPU: on the streams of the device pipeline, or with arrays, one call at a time."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ovsdino_runtime.base.atomic import write_bytes
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.arena import Arena
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.cuda.driver import Block, Device, Pinned, open_cuda
from ovsdino_runtime.engines.cache import (
    BATCHES,
    EngineKey,
    EngineRecord,
    Flavour,
    find_engine,
    profile,
    read_engine,
    rebuild_command,
    source_digest,
)
from ovsdino_runtime.engines.onnxruntime import verify_golden
from ovsdino_runtime.engines.stream_engine import CudaStream, DeviceTensor
from ovsdino_runtime.engines.tensorrt_library import ErrorRecorder, Trt, import_flavour, make
from ovsdino_runtime.geometry.types import Array

CONTEXTS = 2  # that run at once: while one computes, the windows of the other are cut
NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}
log = logging.getLogger(__name__)


def open_cached_engine(
    bundle: Bundle, graph: str, *, flavour: Flavour, device: Device | None = None
) -> "GpuEngine":
    """Open the cached engine of a vision graph for a GPU of this machine; check it on the golden photo.

    Raises:
        EngineError: there is no GPU or no engine for it, or the engine does not reproduce the model.
    """
    engine = read_cached_engine(bundle, graph, flavour=flavour, device=device)
    with naming_the_cure(bundle, flavour):
        verify_golden(bundle, engine)
    engine.keep_runtime_cache()
    return engine


@contextmanager
def naming_the_cure(bundle: Bundle, flavour: Flavour) -> Iterator[None]:
    """Append the command that rebuilds the engines to an `EngineError`."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{error}; build it again: {rebuild_command(bundle, flavour)}") from error


def find_cached_engine(bundle: Bundle, graph: str, *, flavour: Flavour, index: int = 0) -> EngineRecord:
    """Find the cached engine of a graph for a GPU of this machine.

    Args:
        bundle: a checked bundle.
        graph: name of the graph.
        flavour: TensorRT or TensorRT for RTX.
        index: index of the GPU, in CUDA's order.

    Raises:
        EngineError: there is no such GPU, or no engine for it.
    """
    trt = import_flavour(flavour)
    gpu = find_gpu(index, flavour)
    wanted = EngineKey(
        onnx=source_digest(bundle, graph, flavour),
        flavour=flavour,
        version=trt.__version__,
        capabilities=(gpu.capability,),
        gpu=gpu.name,
        driver=gpu.driver,
        precision=bundle.manifest.graphs[graph].precision,
        batches=profile(bundle, graph),
    )
    record = find_engine(bundle, graph, wanted=wanted, gpu=gpu)
    if record.key.driver not in ("", gpu.driver):
        log.warning(
            "%s: the engine of %s was built with driver %s, here is %s; it is checked on the golden photo. "
            "To tune it for this driver: %s",
            *(bundle.manifest.name, graph, record.key.driver, gpu.driver, rebuild_command(bundle, flavour)),
        )
    return record


def find_gpu(index: int, what: str) -> Gpu:
    """Return the GPU with an index.

    Raises:
        EngineError: there is no such GPU.
    """
    gpus = find_gpus()
    if index >= len(gpus):
        raise EngineError(
            f"{what}: this machine has no NVIDIA GPU that answers; use device 'cpu'"
            if not gpus
            else f"{what}: there is no GPU {index}, CUDA sees {len(gpus)}, numbered from 0"
        )
    return gpus[index]


def read_cached_engine(
    bundle: Bundle, graph: str, *, flavour: Flavour, device: Device | None = None
) -> "GpuEngine":
    """Load the cached engine of a graph for a GPU of this machine, without checking its results.

    Raises:
        EngineError: there is no GPU or no engine for it, or TensorRT rejects the engine.
    """
    record = find_cached_engine(bundle, graph, flavour=flavour, index=device.index if device else 0)
    with naming_the_cure(bundle, flavour):
        return GpuEngine(read_engine(record), flavour, device=device, runtime_cache=record.runtime_cache)


class GpuEngine:
    """A TensorRT engine on a GPU. Several threads may call `run`; they take turns.

    Args:
        data: the serialised engine.
        flavour: the TensorRT that built it.
        device: the GPU; None opens the first one.
        runtime_cache: file with the kernels that TensorRT for RTX compiled; read if it exists.

    Raises:
        EngineError: TensorRT rejects the engine, or there is no GPU.
    """

    def __init__(
        self,
        data: bytes,
        flavour: Flavour,
        device: Device | None = None,
        *,
        runtime_cache: Path | None = None,
    ) -> None:
        trt = import_flavour(flavour)
        self.device = device or open_cuda()
        self._trt, self._flavour = trt, flavour
        self._errors = ErrorRecorder(trt)
        self._lock = threading.Lock()  # of `run`: one context, one set of buffers
        self._contexts: list[Trt] = []  # of `enqueue`
        self._host_run: _HostRun | None = None
        self._cache_file = runtime_cache
        self._runtime_cache: Trt = None  # made with the first context
        with self.device.current():
            self._runtime = self._make("runtime", lambda: trt.Runtime(self._errors.logger))
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                other = "it is of another GPU or version"
                raise EngineError(
                    f"{flavour} {trt.__version__} does not take the engine: {self._errors.reasons(other)}"
                )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (self._engine.get_tensor_dtype(name).name, tuple(self._engine.get_tensor_shape(name)))
            for name in names
        }
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = set(inputs)
        self.outputs = [name for name in names if name not in self.inputs]
        self.description = f"{flavour} {trt.__version__} on {self.device.name}"
        self.contexts = CONTEXTS
        self.max_count = BATCHES[1]
        self.capturable = flavour == "tensorrt"  # RTX captures its graphs itself, see `_make_context`

    def inspect(self) -> str:
        """Return the engine's layers as JSON, from TensorRT's inspector."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name.

        Raises:
            EngineError: a shape is outside the profile, or CUDA failed.
        """
        with self._lock, self.device.current():
            if self._host_run is None:
                self._host_run = _HostRun(self.device, self._make_context())
            given = {
                name: np.ascontiguousarray(array, NUMPY_TYPES[self.tensors[name][0]])
                for name, array in inputs.items()
            }
            work = self._host_run
            self._set_shapes(work.context, {name: array.shape for name, array in given.items()})
            results = {name: self._make_output(work.context, name) for name in self.outputs}
            arrays = {**given, **results}
            places, pinned = work.lay_out(arrays)
            self._set_addresses(work.context, places)
            for name, array in given.items():
                pinned[name][...] = array
                work.stream.copy_in(places[name], pinned[name])
            self._execute(work.context, work.stream)
            for name in results:
                work.stream.copy_out(pinned[name], places[name])
            work.stream.synchronize()
            for name, array in results.items():
                array[...] = pinned[name]
        return results

    def enqueue(
        self,
        context: int,
        inputs: Mapping[str, DeviceTensor],
        *,
        outputs: Mapping[str, DeviceTensor],
        stream: CudaStream,
    ) -> None:
        """See `StreamEngine`."""
        while len(self._contexts) <= context:
            self._contexts.append(self._make_context())
        runs = self._contexts[context]
        self._set_shapes(runs, {name: place.shape for name, place in inputs.items()})
        places = {name: place.address for name, place in (*inputs.items(), *outputs.items())}
        self._set_addresses(runs, places)
        self._execute(runs, stream)

    def keep_runtime_cache(self) -> None:
        """Store the kernels that TensorRT for RTX compiled so far, for the next start."""
        if self._runtime_cache is None or self._cache_file is None:
            return
        with suppress(OSError):  # a cache: without it the next start takes longer
            write_bytes(self._cache_file, bytes(self._runtime_cache.serialize()))

    def close(self) -> None:
        """Wait for a run in flight, then release contexts, buffers and the engine."""
        with self._lock, self.device.current():
            if self._host_run is not None:
                self._host_run.free()
            self._host_run = None
            self._contexts.clear()
            self._engine = self._runtime = None

    def __del__(self) -> None:
        """Free the memory on garbage collection, in whichever thread it happens."""
        with suppress(Exception):  # it was never opened, or its device is closed already
            self.close()

    def _make_context(self) -> Trt:
        """Create a context; with TensorRT for RTX it has a kernel cache and captures CUDA graphs."""
        if self._engine is None:
            raise EngineError(f"{self.description}: the engine is closed; load the model again")
        create = self._engine.create_execution_context
        if self._flavour == "tensorrt-rtx" and hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            if self._runtime_cache is None:
                self._runtime_cache = config.create_runtime_cache()
                if self._cache_file is not None and self._cache_file.is_file():
                    self._runtime_cache.deserialize(self._cache_file.read_bytes())
            config.set_runtime_cache(self._runtime_cache)
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._make("execution context", lambda: create(config))
        else:
            context = self._make("execution context", create)
        # Engines are built with detailed layer names for the inspector; at run time they cost time.
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.NONE
        return context

    def _make(self, what: str, factory: Trt) -> Trt:
        version = self._trt.__version__
        return make(what, factory, flavour=self._flavour, version=version, errors=self._errors)

    def _set_shapes(self, context: Trt, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                why = self._errors.reasons("it is outside the profile of the engine")
                raise EngineError(f"{self.description}: does not take {name} of shape {shape}: {why}")

    def _set_addresses(self, context: Trt, places: Mapping[str, int]) -> None:
        for name, address in places.items():
            if not context.set_tensor_address(name, address):
                why = self._errors.reasons("the engine has no such tensor")
                raise EngineError(f"{self.description}: does not take the address of {name}: {why}")

    def _execute(self, context: Trt, stream: CudaStream) -> None:
        if not context.execute_async_v3(stream.handle):
            raise EngineError(f"{self.description}: the engine did not run: {self._errors.reasons()}")

    def _make_output(self, context: Trt, name: str) -> Array:
        return np.empty(tuple(context.get_tensor_shape(name)), NUMPY_TYPES[self.tensors[name][0]])


class _HostRun:
    """State that `GpuEngine.run` reuses: a context, a stream, and memory on device and host.

    Args:
        device: the GPU, current in this thread.
        context: execution context of the engine, used by nothing else.
    """

    def __init__(self, device: Device, context: Trt) -> None:
        self.context = context
        self.stream = device.make_stream("run")
        self._device: Arena[Block] = Arena(device.allocate, 0)
        self._pinned: Arena[Pinned] = Arena(device.pin, 0)

    def lay_out(self, arrays: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, Array]]:
        """Lay out tensors; return their device addresses and pinned arrays of their shapes."""
        sizes = {name: array.nbytes for name, array in arrays.items()}
        on_device, on_host = self._device.lay_out(sizes), self._pinned.lay_out(sizes)
        device, pinned = self._device.block, self._pinned.block
        assert device is not None
        assert pinned is not None
        views = {
            name: pinned.array[on_host[name] :][: array.nbytes].view(array.dtype).reshape(array.shape)
            for name, array in arrays.items()
        }
        return {name: device.address + start for name, start in on_device.items()}, views

    def free(self) -> None:
        """Free the memory."""
        self.stream.synchronize()
        self._device.free()
        self._pinned.free()
