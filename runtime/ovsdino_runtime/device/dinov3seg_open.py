"""Open a dinov3.seg model on a GPU, and check it on the bundle's golden view."""

from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.driver import CudaStream, open_cuda
from ovsdino_runtime.device.dinov3seg import Dinov3segDevicePipeline
from ovsdino_runtime.engines.cache import FLAVOURS
from ovsdino_runtime.engines.first_use import find_or_build_engine
from ovsdino_runtime.engines.onnxruntime import Engine, open_engine
from ovsdino_runtime.engines.onnxruntime_cuda import OrtStreamEngine
from ovsdino_runtime.engines.stream_engine import StreamEngine
from ovsdino_runtime.engines.tensorrt import GpuEngine, read_cached_engine
from ovsdino_runtime.pipelines.dinov3seg_open import graphs_of, verify_dinov3seg


def open_dinov3seg_on_gpu(bundle: Bundle, options: RuntimeOptions) -> Dinov3segDevicePipeline:
    """Open the pipeline of a dinov3.seg model on a GPU.

    Raises:
        EngineError: the engine or the GPU is missing, or the engine does not reproduce the model.
        BundleError: the bundle has no graphs of this precision.
    """
    graphs, index = graphs_of(bundle, options.precision), options.gpu_index
    flavour = next((flavour for flavour in FLAVOURS if flavour == options.engine), None)
    if flavour is not None:
        for graph in graphs.values():
            find_or_build_engine(bundle, graph, flavour=flavour, index=index)
    device = open_cuda(index)
    built: list[GpuEngine] = []

    def open_stage(stage: str, stream: CudaStream) -> StreamEngine:
        if flavour is not None:
            built.append(read_cached_engine(bundle, graphs[stage], flavour=flavour, device=device))
            return built[-1]
        return OrtStreamEngine(bundle.file(bundle.manifest.graphs[graphs[stage]].file), stream, index=index)

    def open_text(stream: CudaStream) -> Engine:
        if flavour is not None:  # TensorRT does not run the text graph
            return open_engine(bundle, "text", threads=options.threads)
        return OrtStreamEngine(bundle.file(bundle.manifest.graphs["text"].file), stream, index=index)

    try:
        pipeline = Dinov3segDevicePipeline(
            bundle, device, open_stage=open_stage, open_text=open_text, options=options
        )
    except BaseException:
        device.close()
        raise
    try:
        verify_dinov3seg(bundle, pipeline)  # each time: another GPU may be there
    except BaseException:
        pipeline.close()
        raise
    for engine in built:
        engine.keep_runtime_cache()
    return pipeline
