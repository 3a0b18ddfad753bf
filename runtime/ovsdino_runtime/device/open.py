"""Open a device pipeline: open the GPU and the requested engine, and check the engine against the model."""

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.devices import find_gpus
from ovsdino_runtime.cuda.driver import Device, check_index, choose_backend, open_cuda
from ovsdino_runtime.device.pipeline import DevicePipeline, OpenText, OpenVision
from ovsdino_runtime.device.stages import choose_kernels
from ovsdino_runtime.device.streams import Streams
from ovsdino_runtime.engines.cache import FLAVOURS
from ovsdino_runtime.engines.first_use import find_or_build_engine
from ovsdino_runtime.engines.onnxruntime import Engine, open_engine, verify_golden
from ovsdino_runtime.engines.onnxruntime_cuda import OrtStreamEngine
from ovsdino_runtime.engines.stream_engine import StreamEngine
from ovsdino_runtime.engines.tensorrt import open_cached_engine


def open_device_pipeline(bundle: Bundle, options: RuntimeOptions) -> DevicePipeline:
    """Open the pipeline on a GPU.

    Whatever can be checked without the GPU is checked before the GPU is opened.

    Raises:
        EngineError: the CUDA back end or the engine is not installed, there is no such GPU, no kernel or
            engine for it, or the engine does not reproduce the model.
        BundleError: the bundle has no graph of this precision.
    """
    graph = vision_graph(bundle, options)
    flavour = next((flavour for flavour in FLAVOURS if flavour == options.engine), None)
    file, index = bundle.file(bundle.manifest.graphs[graph].file), options.gpu_index
    check_gpu(bundle, index)
    if flavour is not None:
        find_or_build_engine(bundle, graph, flavour=flavour, index=index)
    device = open_cuda(index)

    def open_vision(streams: Streams) -> StreamEngine:
        if flavour is not None:
            return open_cached_engine(bundle, graph, flavour=flavour, device=device)
        engine = OrtStreamEngine(file, streams.vision[0], index=index)
        verify_golden(bundle, engine)
        return engine

    def open_text(streams: Streams) -> Engine:
        if flavour is not None:  # TensorRT engines are built from vision graphs only
            return open_engine(bundle, "text", threads=options.threads)
        text = bundle.file(bundle.manifest.graphs["text"].file)
        return OrtStreamEngine(text, streams.text, index=index)

    return open_on(device, bundle, open_vision=open_vision, open_text=open_text, options=options)


def open_on(
    device: Device,
    bundle: Bundle,
    *,
    open_vision: OpenVision,
    open_text: OpenText,
    options: RuntimeOptions,
) -> DevicePipeline:
    """Open a pipeline on a device; close the device if that fails."""
    try:
        return DevicePipeline(bundle, device, open_vision=open_vision, open_text=open_text, options=options)
    except BaseException:
        device.close()
        raise


def check_gpu(bundle: Bundle, index: int) -> None:
    """Check that the GPU exists and that the bundle has kernels for it.

    Raises:
        EngineError: no CUDA back end is installed, there is no such GPU, or the bundle has no kernel for it.
    """
    choose_backend()
    gpus = find_gpus()
    check_index(index, len(gpus))
    choose_kernels(bundle, gpus[index].capability)


def vision_graph(bundle: Bundle, options: RuntimeOptions) -> str:
    """Return the name of the vision graph for the requested precision.

    Raises:
        EngineError: the engine does not support the precision on a GPU.
        BundleError: the bundle has no graph of this precision.
    """
    graph = "vision" if options.precision == "fp32" else f"vision.{options.precision}"
    if options.precision == "int8" or (options.precision, options.engine) == ("bf16", "onnxruntime"):
        raise EngineError(f"{options.engine} on a GPU does not run {options.precision}; use fp16 or fp32")
    if graph not in bundle.manifest.graphs:
        known = ", ".join(bundle.manifest.graphs)
        raise BundleError(f"{bundle.path}: has no {options.precision} vision graph, only {known}")
    return graph
