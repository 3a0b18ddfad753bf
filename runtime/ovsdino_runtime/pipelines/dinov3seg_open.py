"""Open a dinov3.seg model; before its first use on a machine, check it on the bundle's golden view."""

from functools import partial
from typing import Protocol

import numpy as np

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import Precision, RuntimeOptions
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.engines import processor
from ovsdino_runtime.engines.onnxruntime import (
    GOLDEN_COSINE,
    Engine,
    once_per_machine,
    read_golden,
)
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segFeatures, Dinov3segPipeline
from ovsdino_runtime.pipelines.dinov3seg_stages import ChooseClasses

GOLDEN_AGREEMENT = 0.98  # share of places with the same best class; FP16 on photos has >= 0.99


class Dinov3segModel(Protocol):
    """What the check needs of a pipeline; see `Dinov3segPipeline`."""

    choose: ChooseClasses

    @property
    def vision(self) -> Engine: ...

    def encode(self, photo: Photo) -> Dinov3segFeatures: ...

    def logits(self, image_features: Dinov3segFeatures, text: Floats) -> Floats: ...


def open_dinov3seg_pipeline(bundle: Bundle, options: RuntimeOptions) -> Dinov3segPipeline:
    """Open the pipeline of a dinov3.seg model on the processor.

    Raises:
        EngineError: the engine is missing, or does not reproduce the model.
        BundleError: the bundle has no graphs of this precision.
    """
    bf16_by_engine = options.engine == "openvino" and options.precision == "bf16"  # of the FP32 graphs
    graphs = graphs_of(bundle, "fp32" if bf16_by_engine else options.precision)
    engines = {stage: processor.open_graph(bundle, graph, options) for stage, graph in graphs.items()}
    open_text = partial(processor.open_graph, bundle, "text", options)
    pipeline = Dinov3segPipeline(bundle, engines, options=options, open_text=open_text)
    digests = [bundle.graph_digest(graph) for graph in graphs.values()]
    cached = [stage for stage, engine in engines.items() if getattr(engine, "from_cache", False)]
    engine = engines["vision"].description, f"from cache: {cached}"
    key = (*digests, bundle.manifest.files[GOLDEN], bundle.manifest.digest, *engine)
    once_per_machine(key, lambda: verify_dinov3seg(bundle, pipeline))
    return pipeline


def graphs_of(bundle: Bundle, precision: Precision) -> dict[str, str]:
    """Name the graph of each stage in a precision; the text graph is no stage.

    Raises:
        BundleError: the bundle lacks one.
    """
    suffix = "" if precision == "fp32" else f".{precision}"
    stages = [stage for stage in ("vision", *DINOV3SEG_STAGES) if stage in bundle.manifest.graphs]
    if missing := [stage + suffix for stage in stages if stage + suffix not in bundle.manifest.graphs]:
        raise BundleError(
            f"{bundle.path}: has no {precision} graph {missing[0]}, only {', '.join(bundle.manifest.graphs)}"
        )
    return {stage: stage + suffix for stage in stages}


def verify_dinov3seg(bundle: Bundle, pipeline: Dinov3segModel) -> float:
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
    logits = pipeline.logits(image_features, text[chosen])
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
