"""Open a dinov3.seg model; before its first use on a machine, check it on the bundle's golden view."""

import numpy as np

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.cuda.driver import open_cuda
from ovsdino_runtime.engines import processor
from ovsdino_runtime.engines.cache import FLAVOURS
from ovsdino_runtime.engines.first_use import find_or_build_engine
from ovsdino_runtime.engines.onnxruntime import (
    GOLDEN_COSINE,
    Engine,
    once_per_machine,
    open_engine,
    read_golden,
)
from ovsdino_runtime.engines.onnxruntime_cuda import OrtGpuEngine
from ovsdino_runtime.engines.tensorrt import read_cached_engine
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline

GOLDEN_AGREEMENT = 0.98  # share of places with the same best class; FP16 on photos has >= 0.99


def open_dinov3seg_pipeline(bundle: Bundle, options: RuntimeOptions) -> Dinov3segPipeline:
    """Open the pipeline of a dinov3.seg model.

    On a GPU each graph runs on its own stream, so that SAM's guidance runs in parallel to the vision graph.
    Tensors between graphs pass through host memory.

    Raises:
        EngineError: the engine or the GPU is missing, or the engine does not reproduce the model.
        BundleError: the bundle has no graphs of this precision.
    """
    bf16_by_engine = options.engine == "openvino" and options.precision == "bf16"  # of the FP32 graphs
    suffix = "" if options.precision == "fp32" or bf16_by_engine else f".{options.precision}"
    stages = [stage for stage in ("vision", *DINOV3SEG_STAGES) if stage in bundle.manifest.graphs]
    if missing := [stage + suffix for stage in stages if stage + suffix not in bundle.manifest.graphs]:
        raise BundleError(
            f"{bundle.path}: has no {options.precision} graph {missing[0]}, only "
            f"{', '.join(bundle.manifest.graphs)}"
        )
    engines = {stage: open_graph(bundle, stage + suffix, options) for stage in stages}
    pipeline = Dinov3segPipeline(bundle, engines, options, lambda: open_graph(bundle, "text", options))
    if options.device_kind == "cpu":
        digests = [bundle.graph_digest(stage + suffix) for stage in stages]
        cached = [stage for stage, engine in engines.items() if getattr(engine, "from_cache", False)]
        engine = engines["vision"].description, f"from cache: {cached}"
        key = (*digests, bundle.manifest.files[GOLDEN], bundle.manifest.digest, *engine)
        once_per_machine(key, lambda: verify_dinov3seg(bundle, pipeline))
    else:  # another GPU may be there the next time
        verify_dinov3seg(bundle, pipeline)
    return pipeline


def open_graph(bundle: Bundle, graph: str, options: RuntimeOptions) -> Engine:
    """Open the engine of a graph, as the options request; TensorRT does not run the text graph.

    Raises:
        EngineError: the engine or the GPU is missing.
    """
    flavour = next((flavour for flavour in FLAVOURS if flavour == options.engine), None)
    if options.device_kind == "cpu":
        return processor.open_graph(bundle, graph, options)
    if flavour is not None and graph == "text":
        return open_engine(bundle, graph, threads=options.threads)
    index = options.gpu_index
    if flavour is not None:
        find_or_build_engine(bundle, graph, flavour, index)
        return read_cached_engine(bundle, graph, flavour, open_cuda(index))
    return OrtGpuEngine(bundle.file(bundle.manifest.graphs[graph].file), index=index)


def verify_dinov3seg(bundle: Bundle, pipeline: Dinov3segPipeline) -> float:
    """Run the pipeline on the bundle's golden view and compare its logits with those of the torch model.

    Returns:
        The mean cosine, over all positions, of the vectors of class logits.

    Raises:
        EngineError: the cosine is too low or not a number, or the best class differs at too many positions.
    """
    golden = read_golden(bundle, view=(None, None, 3), text=(None, None), logits=(None, None, None))
    view, text = golden["view"], golden["text"]  # (V, V, 3), (n, W)
    expected = golden["logits"].astype(np.float32)  # (n, 4g, 4g)
    image_features = pipeline.encode(view)
    chosen = pipeline.choose(image_features.features, text)  # (K,): the model leaves the others out as well
    expected = expected[chosen]  # (K, 4g, 4g)
    logits = pipeline.decode.logits(
        pipeline.refine_costs(image_features, text[chosen]), image_features.guidance
    )
    lengths = np.linalg.norm(logits, axis=0) * np.linalg.norm(expected, axis=0)
    cosine = float(((logits * expected).sum(axis=0) / lengths).mean())
    agreement = float((logits.argmax(axis=0) == expected.argmax(axis=0)).mean())
    if not (cosine >= GOLDEN_COSINE and agreement >= GOLDEN_AGREEMENT):
        raise EngineError(
            f"{pipeline.vision.description} does not reproduce {bundle.path / GOLDEN}: mean cosine "
            f"{cosine:.5f} and {agreement:.1%} of the labels, expected at least {GOLDEN_COSINE} and "
            f"{GOLDEN_AGREEMENT:.0%}; install another version of the engine"
        )
    return cosine
