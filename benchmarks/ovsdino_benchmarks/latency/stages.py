"""Times of the stages of the runtime, measured one by one with its own functions, and their floors."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.latency.case import Case
from ovsdino_benchmarks.latency.roofline import count_flops
from ovsdino_benchmarks.results.results import Stage, Times
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.bundle.bundle import TOKENIZER
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.files.output import save_json, save_labels, save_overlay
from ovsdino_runtime.geometry.types import Array
from ovsdino_runtime.pipelines.pipeline import HostPipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary

NEW_CLASS = "a word that nobody asked for before, number {}"
MERGE = "head, merge, upsample, argmax"
KNOWN_TEXT = "text, all known"
NEW_TEXT = "text, one new class"
WRITE = "write overlay, labels, JSON"


class TimedEngine:
    """An engine that accumulates its running time [s]."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.description = engine.description
        self.seconds = 0.0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs."""
        start = time.perf_counter()
        outputs = self._engine.run(inputs)
        self.seconds += time.perf_counter() - start
        return outputs


def time_stages(
    case: Case, segmenter: Segmenter, *, engine: TimedEngine, text: TextEncoder
) -> tuple[Stage, ...]:
    """Time every stage after a warm-up.

    Args:
        case: the measured case.
        segmenter: the runtime, whose vision engine is ``engine``.
        engine: separates the engine's time from the cutting of windows.
        text: the segmenter's text encoder; its cache holds all phrases of the case.
    """
    laps: dict[str, list[float]] = {}
    with scratch_folder("bench") as folder:
        new_text = TextEncoder(case.bundle, TextCache(folder / "text.sqlite3"), threads=case.threads)
        for repeat in range(case.request.warmup + case.request.repeats):
            clock = _walk(
                case, segmenter, engine=engine, encoders=(text, new_text), repeat=repeat, folder=folder
            )
            if repeat >= case.request.warmup:
                for name, lap in clock.laps.items():
                    laps.setdefault(name, []).append(1000 * lap)
    floors = _floors(case, segmenter)
    return tuple(Stage(name, summarise(times), *floors.get(name, (None, ""))) for name, times in laps.items())


def summarise(milliseconds: Sequence[float]) -> Times:
    """Return percentiles of repeated times [ms]."""
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99)).round(3).tolist()
    return Times(p50=p50, p90=p90, p99=p99, repeats=len(milliseconds))


class _Laps:
    """Times of stages [s], in their order."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.laps[name] = time.perf_counter() - start

    def split(self, name: str, part: str, seconds: float) -> None:
        """Move a part of a stage's time to a separate stage."""
        self.laps[name] -= seconds
        self.laps[part] = seconds


def _walk(
    case: Case,
    segmenter: Segmenter,
    *,
    engine: TimedEngine,
    encoders: tuple[TextEncoder, TextEncoder],
    repeat: int,
    folder: Path,
) -> _Laps:
    """Run all stages once. One class is new in every repeat, so that no cache contains it."""
    pipeline = host_pipeline(segmenter)
    clock = _Laps()
    with clock("decode"):
        photo = load_photo(case.photo)
    with clock("resize"):
        prepared = pipeline.prepare(photo)
    before = engine.seconds
    with clock("windows"):
        features = pipeline.encode_windows(prepared)
    clock.split("windows", "vision", engine.seconds - before)
    with clock(KNOWN_TEXT):
        embeddings = encoders[0].encode_classes(case.vocabulary, segmenter.templates)
    with clock(NEW_TEXT):
        encoders[1].encode_classes(Vocabulary(((NEW_CLASS.format(repeat),),)), segmenter.templates)
    with clock(MERGE):
        pipeline.merge(prepared, features, embeddings, threshold=None)
    result = segmenter(photo, case.vocabulary, background="none")
    with clock(WRITE):
        write_all(result, folder)
    return clock


def write_all(result: Segmentation, folder: Path) -> None:
    """Write a result into a folder as overlay, labels and JSON."""
    save_overlay(result, folder / "overlay.png")
    save_labels(result, folder / "labels.png")
    save_json(result, folder / "result.json")


def new_text_floor(case: Case, segmenter: Segmenter) -> tuple[float, str]:
    """Return the floor of encoding one new class [ms], and what it counts."""
    prompts = [template.replace("{}", NEW_CLASS.format(0)) for template in segmenter.templates]
    graph = case.bundle.file(case.bundle.manifest.graphs["text"].file)
    flops = count_flops(graph, {"ids": (len(prompts), _tokens(case, prompts))})
    return case.rates.compute_ms(flops), "products of the graph"


def host_pipeline(segmenter: Segmenter) -> HostPipeline:
    """Return the host pipeline of a segmenter."""
    if not isinstance(segmenter.pipeline, HostPipeline):
        raise TypeError(f"expected a HostPipeline, got {type(segmenter.pipeline).__name__}")
    return segmenter.pipeline


def _floors(case: Case, segmenter: Segmenter) -> dict[str, tuple[float, str]]:
    """Return the floor of each compute stage [ms], and what it counts."""
    photo = load_photo(case.photo)
    pipeline = host_pipeline(segmenter)
    prepared = pipeline.prepare(photo)
    resized, windows = prepared.resized, prepared.windows
    features = pipeline.encode_windows(replace(prepared, windows=windows[:1]))  # (1, D, h, w)
    size, width = case.bundle.manifest.windows.size, case.bundle.manifest.text.width
    cells = len(windows) * features[0, 0].size
    flops, copy = case.rates.compute_ms, case.rates.copy_ms
    head = 2 * cells * width * len(case.vocabulary.classes)
    merged = 4 * cells * width + photo[..., 0].size * (2 + 4)
    return {
        "resize": (copy(photo.nbytes + resized.nbytes), "bytes of both photos"),
        "windows": (copy(resized.nbytes + len(windows) * 12 * size**2), "bytes of photo and windows"),
        "vision": (flops(case.vision_flops(len(windows))), "products of the graph"),
        NEW_TEXT: new_text_floor(case, segmenter),
        MERGE: (
            flops(head) + copy(merged),
            "products of features and classes at the windows' grid; bytes of features, labels and scores",
        ),
    }


def _tokens(case: Case, prompts: Sequence[str]) -> int:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(case.bundle.file(TOKENIZER)))
    tokenizer.no_padding()
    longest = max(len(tokenizer.encode(prompt).ids) for prompt in prompts)
    return min(longest, case.bundle.manifest.text.context_length)
