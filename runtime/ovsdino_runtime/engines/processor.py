"""Choose and open the engine that runs the graphs of a bundle on the CPU."""

import hashlib
import logging
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.base.atomic import write_text
from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import Precision, RuntimeOptions
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle
from ovsdino_runtime.engines import onnxruntime
from ovsdino_runtime.engines.machine import engine_version, processor_name
from ovsdino_runtime.engines.onnxruntime import (
    GOLDEN_COSINE,
    GOLDEN_COSINE_INT8,
    Engine,
    check_tensors,
    once_per_machine,
    read_golden,
    verify_golden,
)
from ovsdino_runtime.geometry.preprocess import normalise
from ovsdino_runtime.geometry.types import Floats

if TYPE_CHECKING:
    from ovsdino_runtime.engines.openvino import OpenVinoEngine

ENGINES = ("onnxruntime", "openvino")  # on the processor
ROUNDS = 3  # of each engine, in turns, where the fastest is looked for
log = logging.getLogger(__name__)


def open_graph(bundle: Bundle, graph: str, options: RuntimeOptions) -> Engine:
    """Open an engine for a graph other than vision, such as text; ``options.engine`` must not be "auto".

    Raises:
        EngineError: the engine is not installed, or cannot load the graph.
        BundleError: the graph's inputs or outputs are not those of the manifest.
    """
    if options.engine == "openvino":
        precision = "fp32" if graph == "text" else options.precision
        return _open_openvino(bundle, graph, threads=options.threads, precision=precision)
    return onnxruntime.open_engine(bundle, graph, threads=options.threads)


def open_vision(bundle: Bundle, options: RuntimeOptions) -> Engine:
    """Open the vision engine; before its first use on this machine, check it on the bundle's golden photo.

    Raises:
        EngineError: the engine is not installed, does not support the precision, or its features differ from
            the model's.
        BundleError: the bundle has no graph of this precision.
    """
    if options.engine != "openvino":
        return onnxruntime.open_vision(bundle, threads=options.threads, precision=options.precision)
    precision = options.precision
    graph = "vision" if precision in ("fp32", "bf16") else f"vision.{precision}"
    if graph not in bundle.manifest.graphs:
        raise BundleError(
            f"{bundle.path}: has no {precision} vision graph, only {', '.join(bundle.manifest.graphs)}"
        )
    engine = _open_openvino(bundle, graph, threads=options.threads, precision=precision)
    minimum = GOLDEN_COSINE_INT8 if precision == "int8" else GOLDEN_COSINE
    digests = bundle.graph_digest(graph), bundle.manifest.files[GOLDEN], bundle.manifest.digest
    once_per_machine(  # what comes from the cache of compiled models is checked by itself
        (*digests, engine.description, f"from cache: {engine.from_cache}"),
        lambda: verify_golden(bundle, engine, minimum=minimum),
    )
    return engine


def choose_engine(bundle: Bundle, options: RuntimeOptions, open_one: Callable[[str], Engine]) -> str:
    """Return the fastest installed engine that reproduces the model; measured once per machine.

    Another version of an engine, another processor or another number of threads is measured anew.

    Args:
        bundle: the model.
        options: how the model runs; ``engine`` is ignored.
        open_one: opens the vision engine of a name; raises `EngineError` for an engine to leave out.

    Raises:
        EngineError: no engine works; the message gives the reason for each.
    """
    installed = [name for name in ENGINES if find_spec(name) is not None]
    versions = [(name, engine_version(name)) for name in installed]
    place = processor_name(), platform.node()
    facts = (bundle.graph_digest("vision"), versions, options.threads, options.precision, *place)
    note = cache_dir() / "fastest" / hashlib.sha256(repr(facts).encode()).hexdigest()
    if name := _read_note(note, installed):
        return name
    engines, reasons = {}, []
    for name in installed or ENGINES:
        try:
            engines[name] = open_one(name)
        except EngineError as error:  # noqa: PERF203 - one that fails must not hide the others
            reasons.append(f"{name}: {error}")
    if not engines:
        raise EngineError(f"no engine can run {bundle.manifest.name}: {'; '.join(reasons)}")
    times = _take_turns(_golden_pixels(bundle), engines.items())
    fastest = min(times, key=lambda name: times[name])
    log.info("engine auto: %s, of %s", fastest, ", ".join(f"{n} {1000 * t:.0f} ms" for n, t in times.items()))
    try:
        make_private(note.parent)
        write_text(note, fastest)
    except OSError as error:  # the next start measures again
        log.debug("%s: %s", note, error)
    return fastest


def _read_note(note: Path, installed: Sequence[str]) -> str | None:
    """Read which engine was the fastest; None: no installed one, or others can write the note."""
    try:
        name = note.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return name if name in installed and find_foreign_writer(note) is None else None


def _take_turns(pixels: Floats, engines: Iterable[tuple[str, Engine]]) -> dict[str, float]:
    """Run the engines in turns; return the shortest time of each [s], without its first run."""
    pairs = list(engines)
    times = {name: float("inf") for name, _ in pairs}
    for turn in range(ROUNDS + 1):
        for name, engine in pairs:
            start = time.perf_counter()
            engine.run({"pixels": pixels})
            if turn:
                times[name] = min(times[name], time.perf_counter() - start)
    return times


def _golden_pixels(bundle: Bundle) -> Floats:
    image = read_golden(bundle, image=(None, None, 3))["image"]  # (S, S, 3)
    pixels = normalise(image, bundle.manifest.preprocessing).transpose(2, 0, 1)[None]  # (1, 3, S, S)
    return np.ascontiguousarray(pixels)


def _open_openvino(
    bundle: Bundle, graph: str, *, threads: int | None, precision: Precision
) -> "OpenVinoEngine":
    from ovsdino_runtime.engines.openvino import OpenVinoEngine

    spec = bundle.manifest.graphs[graph]
    file = bundle.file(spec.file)
    engine = OpenVinoEngine(file, bundle.graph_digest(graph), threads=threads, precision=precision)
    expected = {tensor.name for tensor in spec.inputs}
    read = expected if engine.inputs <= expected else engine.inputs  # it drops inputs that nothing reads
    check_tensors(file, spec, inputs=read, outputs=engine.outputs)
    return engine
