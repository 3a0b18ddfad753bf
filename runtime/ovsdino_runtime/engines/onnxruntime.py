"""The interface of engines, which run the graphs of a bundle, and ONNX Runtime on the CPU."""

import ctypes
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ovsdino_runtime.base.arrays import read_arrays
from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle, Graph
from ovsdino_runtime.engines.allocator import return_large_blocks
from ovsdino_runtime.engines.machine import processor_name
from ovsdino_runtime.engines.optimized_graphs import (
    WEIGHTS,
    find_optimized,
    keeping_optimized,
    optimized_folder,
)
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.preprocess import normalise
from ovsdino_runtime.geometry.types import Array

GOLDEN_COSINE = 0.995  # FP16 on real photos has >= 0.999; a wrong graph or kernel is far below
GOLDEN_COSINE_INT8 = 0.97
MAX_KEPT_BYTES = 64 << 20  # of a graph whose optimised form is kept: larger ones would fill the cache
MIN_WEIGHTS = 1024  # [bytes] of a tensor that is kept beside the graph
log = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs one graph."""

    description: str  # what runs it, with its version

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name."""


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Args:
        file: the ONNX graph; external data lies beside it.
        threads: how many threads compute; None takes all processors that this process may use.
        digest: hash of everything that decides what the graph computes. The optimised graph is kept under it
            in the cache, so that the next process opens it faster; "" keeps nothing.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot load the graph.
    """

    def __init__(self, file: Path, *, threads: int | None = None, digest: str = "") -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; it would leave files as well
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime cannot be imported ({error}); {install_command('cpu')} "
                "(or '.[cuda]' with a GPU)"
            ) from error
        return_large_blocks()
        count = threads or available_threads()
        try:
            self._session, self.is_kept = _open_session(ort, file, threads=count, digest=digest)
        except Exception as error:  # ONNX Runtime has a class for each status; a broken graph may cause any
            reason = " ".join(str(error).split())
            raise EngineError(f"{file}: ONNX Runtime {ort.__version__} cannot load it: {reason}") from error
        self._file, self._threads, self._digest, self._process = file, threads, digest, os.getpid()
        self.inputs = {tensor.name for tensor in self._session.get_inputs()}
        self.outputs = [tensor.name for tensor in self._session.get_outputs()]
        self.description = f"ONNX Runtime {ort.__version__} on the CPU, {count} threads"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        if self._process != os.getpid():
            self._reopen_after_fork()
        return run_session(self._session, inputs, self.description)

    def _reopen_after_fork(self) -> None:
        """Open the graph again in a child process: ONNX Runtime's threads live in the parent alone.

        The parent's session is never freed here: its end would wait for those threads.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self.__init__(self._file, threads=self._threads, digest=self._digest)  # type: ignore[misc] # all of its state anew


def _open_session(ort: Any, file: Path, *, threads: int, digest: str) -> tuple[Any, bool]:  # noqa: ANN401
    """Open a graph, in its optimised form if the cache holds it; return whether it does."""
    if digest:
        folder = optimized_folder(digest, f"{ort.__version__} {ort.get_build_info()}")
        kept = find_optimized(folder) or _optimize(ort, file, threads=threads, folder=folder)
        if kept is not None:
            options = _options(ort, threads)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is done
            try:
                return _start(ort, kept, options), True
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the model's own graph is there
                log.warning("%s: not used: %s", kept, " ".join(str(error).split()))
    return _start(ort, file, _options(ort, threads)), False


def _optimize(ort: Any, file: Path, *, threads: int, folder: Path) -> Path | None:  # noqa: ANN401
    """Keep the optimised form of a graph; return its path, or None if that is not possible."""
    try:
        with keeping_optimized(folder) as path:
            options = _options(ort, threads)
            options.optimized_model_filepath = str(path)
            entry = "session.optimized_model_external_initializers_"
            options.add_session_config_entry(f"{entry}file_name", WEIGHTS)
            options.add_session_config_entry(f"{entry}min_size_in_bytes", str(MIN_WEIGHTS))
            _start(ort, file, options)
    except Exception as error:  # noqa: BLE001 - of the disk or the graph: what is wrong with the graph is said later
        log.debug("%s: %s", folder, " ".join(str(error).split()))
        return None
    return find_optimized(folder)


def _options(ort: Any, threads: int) -> Any:  # noqa: ANN401
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # nothing but the end of the process: errors are raised as well
    options.enable_cpu_mem_arena = False  # an arena keeps the peak of the first run for good
    # Between two runs numpy needs the processors that waiting threads would spin on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _start(ort: Any, file: Path, options: Any) -> Any:  # noqa: ANN401
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Mapping[str, Array], description: str) -> dict[str, Array]:  # noqa: ANN401
    """Compute all outputs of an ONNX Runtime session from all its inputs, by name, and wait for them.

    Raises:
        EngineError: ONNX Runtime failed.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    try:
        outputs = session.run(None, dict(inputs))
    except (Fail, InvalidArgument, RuntimeException) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{description}: it failed while it ran: {reason}") from error
    return dict(zip([tensor.name for tensor in session.get_outputs()], outputs, strict=True))


def open_engine(bundle: Bundle, graph: str, *, threads: int | None = None) -> OnnxRuntimeEngine:
    """Open the engine that runs a graph of a bundle on the processor.

    Args:
        bundle: a checked bundle.
        graph: its name in the manifest.
        threads: see `OnnxRuntimeEngine`.

    Raises:
        EngineError: ONNX Runtime is not installed, or the graph cannot be loaded.
        BundleError: the graph's inputs or outputs are not those of the manifest.
    """
    if threads is not None and threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}")
    spec = bundle.manifest.graphs[graph]
    file = bundle.file(spec.file)
    digest = bundle.graph_digest(graph) if _weigh(bundle, graph) <= MAX_KEPT_BYTES else ""
    engine = OnnxRuntimeEngine(file, threads=threads, digest=digest)
    check_tensors(file, spec, inputs=engine.inputs, outputs=engine.outputs)
    return engine


def _weigh(bundle: Bundle, graph: str) -> int:
    """Return the size of a graph and its weights, at most [bytes]."""
    file = bundle.manifest.graphs[graph].file
    stem = file.partition(".")[0]
    names = {
        file,
        *(name for name in bundle.manifest.files if name.startswith(f"{stem}.") and ".onnx" not in name),
    }
    return sum(bundle.file(name).stat().st_size for name in names)


def check_tensors(file: Path, spec: Graph, *, inputs: set[str], outputs: Sequence[str]) -> None:
    """Compare the inputs and outputs of an engine with the manifest.

    Raises:
        BundleError: the names differ.
    """
    expected = {tensor.name for tensor in spec.inputs}, {tensor.name for tensor in spec.outputs}
    if (inputs, set(outputs)) != expected:
        raise BundleError(
            f"{file}: inputs {sorted(inputs)}, outputs {sorted(outputs)}; the manifest says "
            f"inputs {sorted(expected[0])}, outputs {sorted(expected[1])}; export the model again"
        )


def open_vision(bundle: Bundle, *, threads: int | None, precision: Precision) -> Engine:
    """Open the vision engine; before its first use on this machine, check it on the bundle's golden pair.

    Raises:
        EngineError: as `open_engine`, or the engine's features are not the model's.
        BundleError: as `open_engine`, or the bundle has no graph of this precision.
    """
    if precision == "bf16":
        raise EngineError(
            "ONNX Runtime has no BF16 products on a CPU; use engine openvino, or precision fp32"
        )
    graph = "vision" if precision == "fp32" else f"vision.{precision}"
    if graph not in bundle.manifest.graphs:
        raise BundleError(
            f"{bundle.path}: has no {precision} vision graph, only {', '.join(bundle.manifest.graphs)}"
        )
    engine = open_engine(bundle, graph, threads=threads)
    minimum = GOLDEN_COSINE_INT8 if precision == "int8" else GOLDEN_COSINE
    digests = bundle.graph_digest(graph), bundle.manifest.files[GOLDEN], bundle.manifest.digest
    once_per_machine(  # a kept graph is checked by itself
        (*digests, engine.description, f"kept: {engine.is_kept}"),
        lambda: verify_golden(bundle, engine, minimum=minimum),
    )
    return engine


def once_per_machine(key: Sequence[str], verify: Callable[[], object]) -> None:
    """Call ``verify`` unless it has already succeeded on this machine.

    Args:
        key: everything that decides the outcome, except the processor.
        verify: raises an exception if something is wrong.
    """
    key = (*key, processor_name())
    stamp = cache_dir() / "verified" / hashlib.sha256(repr(key).encode()).hexdigest()
    if stamp.is_file() and find_foreign_writer(stamp) is None:
        return
    verify()
    try:
        make_private(stamp.parent)
        stamp.touch()
    except OSError as error:  # the next start verifies again
        log.debug("%s: %s", stamp, error)


def read_golden(bundle: Bundle, **shapes: tuple[int | None, ...]) -> dict[str, Array]:
    """Read arrays of the bundle's golden pair.

    Args:
        bundle: the model.
        shapes: expected shape of each array; None accepts any length of an axis.

    Raises:
        BundleError: an array is missing, has another shape, or is not numeric.
    """
    try:
        arrays = read_arrays(bundle.file(GOLDEN), shapes)
    except (ValueError, OSError) as error:
        raise BundleError(
            f"{bundle.file(GOLDEN)}: damaged: {' '.join(str(error).split())}; export the model again"
        ) from error
    for name, shape in shapes.items():
        got = arrays[name].shape
        fits = len(got) == len(shape) and all(b in (None, a) for a, b in zip(got, shape, strict=True))
        if not fits or 0 in got or arrays[name].dtype.kind not in "uf":
            wanted = ", ".join("*" if length is None else str(length) for length in shape)
            raise BundleError(
                f"{bundle.file(GOLDEN)}: {name} is {arrays[name].dtype} of shape {got}, expected numbers of "
                f"shape ({wanted}); export the model again"
            )
    return arrays


def verify_golden(bundle: Bundle, engine: Engine, *, minimum: float = GOLDEN_COSINE) -> float:
    """Encode the bundle's golden image and compare the features with those of the torch model.

    Returns:
        The mean cosine over all positions.

    Raises:
        EngineError: the mean cosine is below ``minimum`` or not a number.
    """
    golden = read_golden(bundle, image=(None, None, 3), features=(None, None, None))
    image, expected = golden["image"], golden["features"].astype(np.float32)  # (S, S, 3), (D, h, w)
    pixels = normalise(image, bundle.manifest.preprocessing).transpose(2, 0, 1)[None]  # (1, 3, S, S)
    features = engine.run({"pixels": np.ascontiguousarray(pixels)})["features"][0]  # (D, h, w)
    if features.shape != expected.shape:
        raise EngineError(
            f"{engine.description} gives features of shape {features.shape}, {bundle.path / GOLDEN} holds "
            f"{expected.shape}; export the model again"
        )
    lengths = np.linalg.norm(features, axis=0) * np.linalg.norm(expected, axis=0)
    cosine = float(((features * expected).sum(axis=0) / lengths).mean())
    if not cosine >= minimum:
        raise EngineError(
            f"{engine.description} does not reproduce {bundle.path / GOLDEN}: mean cosine {cosine:.5f}, "
            f"expected at least {minimum}; install another version of the engine"
        )
    return cosine
