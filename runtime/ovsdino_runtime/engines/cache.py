"""The cache of built engines: one for each graph, GPU and version of TensorRT.

An engine is machine code. A record beside it holds its sha256, what it was built from and for which GPU. An
engine that does not match is never loaded; the error holds the command that builds a matching one.

$CACHE/engines/
  <digest of the key>.engine    the engine, as TensorRT serialised it
  <digest of the key>.json      the record, written last: an engine without a record is ignored
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Literal, get_args

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.atomic import write_bytes
from ovsdino_runtime.base.errors import EngineError, OutputError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.kernels import FUSED
from ovsdino_runtime.cuda.devices import Gpu

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
RECORD_VERSION = 1
# Profiles: smallest, optimal and largest batch. A context reserves memory for the largest batch.
BATCHES = (1, 4, 4)  # windows of a vision engine at once
DECODED = (1, 8, 8)  # classes in the decoder at once
LOCK = ".lock"


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether an engine may be loaded."""

    onnx: str  # sha256 of the graph with its weights, `source_digest`
    flavour: Flavour
    version: str  # of TensorRT, in full
    capabilities: tuple[str, ...]  # such as ("sm_86", "sm_89")
    gpu: str  # name of the GPU that it was built on; "" for any GPU of these capabilities
    driver: str  # on which it was built; "" for any
    precision: Precision
    batches: tuple[int, int, int]  # of the profile: least, best, most windows or classes at once

    @property
    def digest(self) -> str:
        """Hash all fields; the result names the engine's files."""
        text = repr([(field.name, getattr(self, field.name)) for field in fields(self)])
        return hashlib.sha256(text.encode()).hexdigest()

    def misfits(self, other: "EngineKey", gpu: Gpu) -> Iterator[str]:
        """Yield each reason why this engine cannot replace ``other`` on a GPU, as text."""
        if self.onnx != other.onnx:
            yield "it was built from another ONNX graph"
        if (self.flavour, self.version) != (other.flavour, other.version):
            yield f"it was built by {self.flavour} {self.version}, here is {other.flavour} {other.version}"
        if gpu.capability not in self.capabilities:
            yield f"it was built for {', '.join(self.capabilities)}, the GPU here is {gpu.capability}"
        elif self.gpu not in ("", gpu.name):
            yield f"it was built on {self.gpu}, the GPU here is {gpu.name}"
        if self.precision != other.precision:
            yield f"it computes in {self.precision}, asked for is {other.precision}"
        if self.batches != other.batches:
            yield f"its batches are {self.batches}, asked for are {other.batches}"


@dataclass(frozen=True)
class EngineRecord:
    """The record of an engine in the cache."""

    record_version: int
    key: EngineKey
    model: str  # name of the bundle, for messages
    graph: str  # name of the graph in the bundle
    sha256: str  # of the engine
    size: int  # [bytes]
    seconds: float  # that the build took
    layers: dict[str, int]  # "MATRIX_MULTIPLY HALF" -> how many, as parsed
    golden_cosine: float | None  # of the golden pair on the GPU that built it; None where it could not run

    @property
    def file(self) -> Path:
        """Return the path of the engine."""
        return engines_dir() / f"{self.key.digest}.engine"

    @property
    def runtime_cache(self) -> Path:
        """Return the path of the kernels that TensorRT for RTX compiled; other flavours write none."""
        return self.file.with_suffix(".runtime")


def profile(bundle: Bundle, graph: str) -> tuple[int, int, int]:
    """Return the optimisation profile of a graph: least, best and most windows or classes per run."""
    dinov3seg = bundle.manifest.dinov3seg
    stage = graph.partition(".")[0]
    if stage == "late" and dinov3seg is not None:
        return 1, min(32, dinov3seg.pad_length), dinov3seg.pad_length
    if stage in ("whole", "guidance", "refine"):
        return 1, 1, 1  # nothing varies
    return DECODED if stage == "decoder" else BATCHES


def engines_dir() -> Path:
    """Return the folder of the engines; it may not exist yet."""
    return cache_dir() / "engines"


def source_digest(bundle: Bundle, graph: str, flavour: Flavour) -> str:
    """Hash the inputs of an engine build: the graph, and the bundle's kernels if they can become plugins."""
    plugins = [kernel.file for kernel in bundle.manifest.kernels if kernel.operator in FUSED]
    if flavour == "tensorrt-rtx" or not plugins:
        return bundle.graph_digest(graph)
    kernels = sorted(bundle.manifest.files[file] for file in plugins)
    return hashlib.sha256("".join([bundle.graph_digest(graph), *kernels]).encode()).hexdigest()


def rebuild_command(bundle: Bundle, flavour: Flavour, gpus: str = "current") -> str:
    """Return the command that rebuilds the engines of a bundle."""
    return f"ovsdino-export --bundle {bundle.path} --engine {flavour} --gpu {gpus}"


def list_engines() -> tuple[list[EngineRecord], list[Path]]:
    """Return all records, sorted by model and graph, and the paths of unreadable records."""
    records, broken = [], []
    for path in sorted(engines_dir().glob("*.json")):
        try:
            records.append(read_record(path))
        except EngineError:  # noqa: PERF203 - one broken record must not hide the others
            broken.append(path)
    return sorted(records, key=lambda record: (record.model, record.graph, record.key.digest)), broken


def read_record(path: Path) -> EngineRecord:
    """Read a record.

    Raises:
        EngineError: the record is damaged or of another version of this program, or its engine is missing.
    """
    try:
        record = strict_json.parse(
            EngineRecord, strict_json.loads(regular_file(path).read_text(encoding="utf-8"))
        )
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: {error}; `ovsdino-export --clear-engines` removes it") from error
    if record.record_version != RECORD_VERSION or path.stem != record.key.digest:
        raise EngineError(
            f"{path}: not a record of this version; `ovsdino-export --clear-engines` removes it"
        )
    if not record.file.is_file():
        raise EngineError(f"{record.file}: missing; `ovsdino-export --clear-engines` removes its record")
    return record


def store_engine(record: EngineRecord, data: bytes) -> EngineRecord:
    """Write an engine and its record atomically: after a crash or on a full disk nothing is left.

    Raises:
        OutputError: the cache cannot be written; the message names its folder.
    """
    try:
        make_private(engines_dir())
        write_bytes(record.file, data)
        write_bytes(record.file.with_suffix(".json"), strict_json.dumps(record).encode())
    except OSError as error:
        raise OutputError(
            f"{engines_dir()}: cannot keep an engine of {len(data) / 2**20:.0f} MiB: {error.strerror}; "
            "make room, or set OVSDINO_CACHE to a folder on another disk"
        ) from error
    return record


def read_engine(record: EngineRecord) -> bytes:
    """Read an engine's bytes.

    Raises:
        EngineError: the file is missing or changed, or another user of this machine can write to it.
    """
    if writer := find_foreign_writer(record.file):
        raise EngineError(f"{record.file}: not loaded, for an engine is machine code: {writer}")
    try:
        data = record.file.read_bytes()
    except OSError as error:
        raise EngineError(f"{record.file}: {error.strerror}; build the engine again") from error
    if (actual := hashlib.sha256(data).hexdigest()) != record.sha256:
        raise EngineError(
            f"{record.file}: changed or damaged: sha256 {actual[:12]}, its record says "
            f"{record.sha256[:12]}; remove it with `ovsdino-export --clear-engines` and build it again"
        )
    return data


def find_engine(bundle: Bundle, graph: str, *, wanted: EngineKey, gpu: Gpu) -> EngineRecord:
    """Find the engine of a bundle's graph that may run on a GPU.

    Args:
        bundle: the model.
        graph: name of the graph.
        wanted: key of the engine; ``capabilities``, ``gpu`` and ``driver`` are taken from ``gpu`` instead.
        gpu: the GPU that will run it. Of several matching engines, one built with its driver is preferred.

    Raises:
        EngineError: no engine matches; the message explains why the closest one does not, and holds the
            command that builds one.
    """
    records = [record for record in list_engines()[0] if record.model == bundle.manifest.name]
    misses = [(list(record.key.misfits(wanted, gpu)), record) for record in records if record.graph == graph]
    fitting = [record for reasons, record in misses if not reasons]
    if fitting:
        return min(fitting, key=lambda record: record.key.driver not in ("", gpu.driver))
    nearest = min(misses, key=lambda miss: len(miss[0]), default=None)
    why = "none was built yet" if nearest is None else f"the nearest one does not fit: {nearest[0][0]}"
    raise EngineError(
        f"{bundle.manifest.name}: no engine of {graph} for {gpu.name} ({gpu.capability}); {why}; "
        f"build it: {rebuild_command(bundle, wanted.flavour)}"
    )


def clear_engines() -> int:
    """Delete all engines, records and temporary files; return the number of deleted engines."""
    count = len(list(engines_dir().glob("*.engine")))
    for path in engines_dir().glob("*"):
        if path.suffix != LOCK and not path.is_dir():  # a lock may be held, and is empty
            path.unlink(missing_ok=True)
    return count


@contextmanager
def building(key: EngineKey) -> Iterator[bool]:
    """Hold the lock of a key, so that two processes do not build the same engine at once.

    Yields:
        Whether another process held the lock before; its engine is then in the cache.

    Raises:
        OutputError: the cache cannot be written.
    """
    try:
        make_private(engines_dir())
        lock = (engines_dir() / f"{key.digest}{LOCK}").open("a+b")
    except OSError as error:
        raise OutputError(
            f"{engines_dir()}: {error.strerror}; set OVSDINO_CACHE to a folder that can be written"
        ) from error
    with lock:
        waited = not _lock(lock, wait=False)
        if waited:
            _lock(lock, wait=True)
        yield waited  # closing the file frees the lock, and so does the death of the process


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    if os.name == "nt":
        import msvcrt  # pragma: no cover - Windows

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
