"""Times of the stages of a dinov3.seg model, as measured by the runtime, and their floors."""

import numpy as np

from ovsdino_benchmarks.latency.case import Case
from ovsdino_benchmarks.latency.roofline import FlopsError, count_flops
from ovsdino_benchmarks.latency.stages import (
    KNOWN_TEXT,
    NEW_CLASS,
    NEW_TEXT,
    WRITE,
    new_text_floor,
    summarise,
    write_all,
)
from ovsdino_benchmarks.results.results import Stage
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.base.trace import NO_TRACE
from ovsdino_runtime.geometry.preprocess import normalise
from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.pipelines.dinov3seg_stages import patch_size
from ovsdino_runtime.pipelines.pipeline import StageTimer
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary

NAMES = {"guidance": "guidance, waited for", "merge": "sigmoid, merge, upsample, argmax"}
ALONE = "guidance, alone"
GRAPHS = {"vision": "vision", "whole": "whole", "refine": "refine", ALONE: "guidance", "late": "late"}
PRODUCTS = "products of the graph"


def time_dinov3seg(
    case: Case, segmenter: Segmenter, *, pipeline: Dinov3segPipeline, text: TextEncoder
) -> tuple[Stage, ...]:
    """Time every stage after a warm-up; as `stages.time_stages`, for a model with a decoder.

    Args:
        case: the measured case.
        segmenter: the runtime, whose pipeline is ``pipeline``.
        pipeline: measures its own stages.
        text: the segmenter's text encoder; its cache holds all phrases of the case.
    """
    laps: dict[str, list[float]] = {}
    with scratch_folder("bench") as folder:
        new_text = TextEncoder(case.bundle, TextCache(folder / "text.sqlite3"), threads=case.threads)
        pixels = _view(case, pipeline)
        for repeat in range(case.request.warmup + case.request.repeats):
            lap = StageTimer(NO_TRACE)
            result = segmenter(case.photo, case.vocabulary, background="none")
            times = {NAMES.get(name, name): taken for name, taken in result.timings.items() if name != "text"}
            lap.times.update(times)
            with lap(ALONE):
                pipeline.guide(pixels)
            with lap(KNOWN_TEXT):
                text.encode_classes(case.vocabulary, segmenter.templates)
            with lap(NEW_TEXT):
                new_text.encode_classes(Vocabulary(((NEW_CLASS.format(repeat),),)), segmenter.templates)
            with lap(WRITE):
                write_all(result, folder)
            if repeat >= case.request.warmup:
                for name, taken in lap.times.items():
                    laps.setdefault(name, []).append(taken)
    floors = _floors(case, segmenter)
    return tuple(Stage(name, summarise(times), *floors.get(name, (None, ""))) for name, times in laps.items())


def all_flops(case: Case, windows: int) -> int:
    """Return the operations of all graphs except text for one photo, as far as they can be counted."""
    counts = {name: _graph_flops(case, graph) or 0 for name, graph in GRAPHS.items()}
    counts["vision"] *= windows
    return sum(counts.values()) + _classes(case) * (_graph_flops(case, "decoder", classes=1) or 0)


def _floors(case: Case, segmenter: Segmenter) -> dict[str, tuple[float, str]]:
    """Return the floor of each compute stage [ms] and what it counts, if it can be computed."""
    photo = load_photo(case.photo)
    prepared = segmenter.pipeline.prepare(photo)
    view = prepared.resized
    copy, milliseconds = case.rates.copy_ms, case.rates.compute_ms
    flops = {name: _graph_flops(case, graph) for name, graph in GRAPHS.items()}
    flops["vision"] = (flops["vision"] or 0) * len(prepared.windows) or None
    flops["decoder"] = (_graph_flops(case, "decoder", classes=1) or 0) * _classes(case) or None
    floors = {name: (milliseconds(count), PRODUCTS) for name, count in flops.items() if count}
    fine = 4 * view.shape[0] // patch_size(case.bundle.manifest)
    merged = 4 * _classes(case) * fine**2 + photo[..., 0].size * (2 + 4)
    return {
        **floors,
        "resize": (copy(photo.nbytes + view.nbytes), "bytes of photo and view"),
        NEW_TEXT: new_text_floor(case, segmenter),
        NAMES["merge"]: (copy(merged), "bytes of the decoder's maps, labels and scores"),
    }


def _graph_flops(case: Case, name: str, classes: int = 0) -> int | None:
    """Return the operations of a graph with batch 1; None without such a graph, or if a shape is unknown."""
    graph = case.bundle.manifest.graphs.get(name)
    if graph is None:
        return None
    sizes = {"batch": 1, "classes": classes or _classes(case)}
    shapes = {
        tensor.name: tuple(sizes[side] if isinstance(side, str) else side for side in tensor.shape)
        for tensor in graph.inputs
    }
    try:
        return count_flops(case.bundle.file(graph.file), shapes)
    except FlopsError:
        return None


def _classes(case: Case) -> int:
    """Return the number of classes that are refined and decoded."""
    dinov3seg = case.bundle.manifest.dinov3seg
    count = len(case.vocabulary.classes)
    return count if dinov3seg is None else min(count, dinov3seg.pad_length)


def _view(case: Case, pipeline: Dinov3segPipeline) -> Floats:
    view = pipeline.prepare.resize(load_photo(case.photo))
    pixels = normalise(view, case.bundle.manifest.preprocessing)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, V, V)
