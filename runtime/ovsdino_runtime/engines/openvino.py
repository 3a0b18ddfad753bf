"""OpenVINO on the CPU: often the fastest engine on Intel processors; BF16 if the processor supports it.

OpenVINO cannot read local functions, which our graphs use (2026.4 crashes on some). They are inlined once,
and the result is cached in OpenVINO's own format.
"""

import hashlib
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.bundle.exchange import exchange, staging_folder, sweep_staging
from ovsdino_runtime.engines.file_checks import is_as_recorded, write_record
from ovsdino_runtime.engines.machine import processor_name
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.types import Array

MODEL = "model.xml"  # of a folder in the cache; the weights lie beside it, in model.bin
FILES = (MODEL, "model.bin")
KINDS = {"bf16": "BF16", "int8": "INT8"}  # what the description calls a precision; others: FP32
_FIRST_ACCESS = threading.Lock()
HINTS = {"fp32": "f32", "bf16": "bf16"}  # what OpenVINO computes in; of its own it may take BF16
log = logging.getLogger(__name__)


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        file: the ONNX graph; external data lies beside it.
        digest: hash of everything that decides what the graph computes; the cache key.
        threads: how many threads compute; None takes all processors that this process may use.
        precision: "bf16" computes matrix products in BF16; any other in FP32, or in the types of the graph.

    Raises:
        EngineError: OpenVINO is not installed or cannot read the graph, or the processor has no BF16.
    """

    def __init__(
        self, file: Path, digest: str, *, threads: int | None = None, precision: Precision = "fp32"
    ) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor has no BF16 products; use precision fp32")
        count = threads or available_threads()
        settings = {
            "INFERENCE_NUM_THREADS": count,
            "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._compiled = _compile(openvino, core, file=file, digest=digest, settings=settings)
        except RuntimeError as error:
            raise EngineError(f"{file}: OpenVINO cannot compile it: {_one_line(error)}") from error
        self.from_cache = _is_from_cache(self._compiled)
        self.inputs = {port.get_any_name() for port in self._compiled.inputs}
        self.outputs = [port.get_any_name() for port in self._compiled.outputs]
        version = openvino.__version__.partition("-")[0]
        kind = KINDS.get(precision, "FP32")
        self.description = f"OpenVINO {version} on the CPU, {kind}, {count} threads"
        self._idle: list[Any] = []  # requests that no thread uses
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name; from any thread.

        Raises:
            EngineError: OpenVINO failed.
        """
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            results = request.infer({name: np.ascontiguousarray(inputs[name]) for name in self.inputs})
            outputs = {name: np.array(results[name]) for name in self.outputs}  # copies: memory is used again
        except RuntimeError as error:
            raise EngineError(f"{self.description}: it failed while it ran: {_one_line(error)}") from error
        with self._lock:
            self._idle.append(request)
        return outputs


def import_openvino() -> Any:  # noqa: ANN401 - its types differ between versions
    """Import OpenVINO, and use its tensors once.

    OpenVINO 2026.4 prepares its table of types on the first access to a tensor's data, and holds a lock of
    C++ while it calls Python there. If a second thread makes its own first access meanwhile, each waits for
    what the other holds, the lock and Python's interpreter lock, forever. So one thread makes the first one.

    Raises:
        EngineError: it is not installed.
    """
    with _FIRST_ACCESS:
        try:
            import openvino
        except ImportError as error:
            raise EngineError(
                f"OpenVINO cannot be imported ({error}); {install_command('openvino')}"
            ) from error
        _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino


def _compile(openvino: Any, core: Any, *, file: Path, digest: str, settings: Mapping[str, object]) -> Any:  # noqa: ANN401
    """Compile a graph; store it with its local functions inlined, and what was compiled beside it.

    Raises:
        EngineError: another user of this machine can write to the cache, or the graph cannot be read.
        RuntimeError: OpenVINO cannot compile the graph.
    """
    key = hashlib.sha256(f"{digest} {openvino.__version__}".encode()).hexdigest()
    folder = cache_dir() / "openvino" / key
    _check_writers(folder)
    model = None
    if not _is_whole(folder):
        model = _store(openvino, core, file=file, folder=folder)
    if _is_whole(folder):
        # OpenVINO 2026.4 takes what was compiled for FP32 when BF16 is asked for, and dies: a folder for each
        # set of settings. With OPTIMIZE_SIZE, graphs of any batch give empty results from the cache.
        setup = hashlib.sha256(f"{sorted(settings.items())} {processor_name()}".encode()).hexdigest()
        cached = {**settings, "CACHE_DIR": str(folder / setup[:16]), "CACHE_MODE": "OPTIMIZE_SPEED"}
        with suppress(OSError):
            (folder / setup[:16]).mkdir(mode=0o700, exist_ok=True)
        with suppress(RuntimeError):  # damaged, or this version does not know the settings
            return core.compile_model(str(folder / MODEL), "CPU", cached)
    return core.compile_model(model or _store(openvino, core, file=file, folder=folder), "CPU", settings)


def _is_whole(folder: Path) -> bool:
    """Tell whether a stored graph and its weights are as written; a warning says if they are not."""
    if not (folder / MODEL).is_file():
        return False
    try:
        if is_as_recorded(folder, FILES):
            return True
    except (OSError, ValueError) as error:
        log.debug("%s: %s", folder, error)
    log.warning("%s: damaged; the graph is converted again", folder)
    return False


def _is_from_cache(compiled: Any) -> bool:  # noqa: ANN401
    try:
        return bool(compiled.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:  # this version does not tell
        return False


def _check_writers(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if writer := find_foreign_writer(file):
            raise EngineError(f"{file}: not loaded, for it may not be the model: {writer}")


def _store(openvino: Any, core: Any, *, file: Path, folder: Path) -> Any:  # noqa: ANN401
    """Read a graph, inline its local functions, and store it in the cache."""
    model = _convert(core, file)
    with suppress(OSError):  # without a cache it is made again the next time
        make_private(folder.parent)
        sweep_staging(folder)
        with staging_folder(folder) as staging:
            (staging / "new").mkdir(mode=0o700)
            openvino.save_model(model, staging / "new" / MODEL, compress_to_fp16=False)
            write_record(staging / "new", FILES)
            exchange(staging / "new", folder, old=staging / "old")
    return model


def _convert(core: Any, file: Path) -> Any:  # noqa: ANN401
    try:
        import onnx
        from onnx import inliner
    except ImportError as error:
        raise EngineError(f"OpenVINO needs {error.name}: {install_command('openvino')}") from error
    try:
        inlined = inliner.inline_local_functions(onnx.load(str(file)))
        return core.read_model(inlined.SerializeToString())
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{file}: OpenVINO cannot read it: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
