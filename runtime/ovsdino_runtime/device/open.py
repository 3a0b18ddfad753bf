"""Open a device pipeline: the GPU, the engine that was asked for, and proof that it reproduces the model."""

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.driver import open_cuda
from ovsdino_runtime.device.pipeline import DevicePipeline
from ovsdino_runtime.device.streams import Streams
from ovsdino_runtime.engines.cache import FLAVOURS
from ovsdino_runtime.engines.onnxruntime import Engine, open_engine, verify_golden
from ovsdino_runtime.engines.onnxruntime_cuda import OrtStreamEngine
from ovsdino_runtime.engines.stream_engine import StreamEngine
from ovsdino_runtime.engines.tensorrt import open_cached_engine


def open_device_pipeline(bundle: Bundle, options: RuntimeOptions) -> DevicePipeline:
    """Open the pipeline of the first GPU.

    Raises:
        EngineError: pycuda or the engine is not installed, there is no GPU, no kernel or engine for it, or
            the engine does not reproduce the model.
        BundleError: the bundle has no graph of this precision.
    """
    graph = vision_graph(bundle, options)
    flavour = next((flavour for flavour in FLAVOURS if flavour == options.engine), None)
    file = bundle.file(bundle.manifest.graphs[graph].file)

    def open_vision(streams: Streams) -> StreamEngine:
        if flavour is not None:
            return open_cached_engine(bundle, graph, flavour)
        engine = OrtStreamEngine(file, streams.vision[0])
        verify_golden(bundle, engine)
        return engine

    def open_text(streams: Streams) -> Engine:
        if flavour is not None:  # engines are built of vision graphs alone
            return open_engine(bundle, "text", threads=options.threads)
        return OrtStreamEngine(bundle.file(bundle.manifest.graphs["text"].file), streams.text)

    return DevicePipeline(bundle, open_cuda(), open_vision, open_text, options)


def vision_graph(bundle: Bundle, options: RuntimeOptions) -> str:
    """Name the vision graph of a precision.

    Raises:
        EngineError: the engine does not compute in it on a GPU.
        BundleError: the bundle has none.
    """
    graph = "vision" if options.precision == "fp32" else f"vision.{options.precision}"
    if options.precision == "int8" or (options.precision, options.engine) == ("bf16", "onnxruntime"):
        raise EngineError(f"{options.engine} on a GPU does not run {options.precision}; use fp16 or fp32")
    if graph not in bundle.manifest.graphs:
        known = ", ".join(bundle.manifest.graphs)
        raise BundleError(f"{bundle.path}: has no {options.precision} vision graph, only {known}")
    return graph
