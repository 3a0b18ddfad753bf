"""Build engines from a bundle's graphs with TensorRT or TensorRT for RTX. Needs neither torch nor onnx.

Both have the same Python interface. They differ in the import, in the supported GPUs (TensorRT builds for the
GPU of this machine, TensorRT for RTX for any GPU that it knows, without one), and in the timing cache, which
only TensorRT has. Networks are strongly typed: the engine has the types of the graph, or the build fails.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from ovsdino_export.engines.inspect import (
    TYPES,
    Layer,
    check_layers,
    check_tensors,
    engine_layers,
    network_layers,
)
from ovsdino_export.engines.progress import build_watched
from ovsdino_runtime.base.atomic import write_bytes
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.kernels import FUSED, runs_on
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.cuda.driver import open_cuda
from ovsdino_runtime.engines import cache as engine_cache
from ovsdino_runtime.engines.cache import EngineKey, EngineRecord, Flavour
from ovsdino_runtime.engines.onnxruntime import verify_golden
from ovsdino_runtime.engines.tensorrt import GpuEngine
from ovsdino_runtime.engines.tensorrt_library import ErrorRecorder, Trt, import_flavour, make

Report = Callable[[str], None]
CURRENT = "current"
# TensorRT for RTX 1.7: "FP32 GEMM is not supported" on sm_75.
NO_PRODUCTS: dict[tuple[Flavour, Precision], tuple[str, ...]] = {("tensorrt-rtx", "fp32"): ("sm_75",)}
PLUGIN_LAYER = "PLUGIN_V3"


@dataclass(frozen=True)
class EngineTarget:
    """The TensorRT and GPUs for which engines are built; `choose_target` returns a valid target."""

    flavour: Flavour
    version: str  # of TensorRT
    capabilities: tuple[str, ...]  # such as ("sm_86", "sm_89")
    gpu: Gpu | None  # of this machine, if the engine can run on it
    ahead: bool  # built for capabilities, not on one GPU
    index: int = 0  # of the GPU of this machine, in CUDA's order
    workspace: int | None = None  # [MiB] of GPU memory that TensorRT may try tactics with; None: all

    def key(self, bundle: Bundle, graph: str) -> EngineKey:
        """Return the cache key of a graph's engine."""
        here = None if self.ahead else self.gpu
        return EngineKey(
            onnx=engine_cache.source_digest(bundle, graph, self.flavour),
            flavour=self.flavour,
            version=self.version,
            capabilities=self.capabilities,
            gpu=here.name if here else "",
            driver=here.driver if here else "",
            precision=bundle.manifest.graphs[graph].precision,
            batches=engine_cache.profile(bundle, graph),
        )


def choose_target(flavour: Flavour, gpus: str, *, workspace: int | None = None) -> EngineTarget:
    """Choose the TensorRT and GPUs of a build, and check that it is possible here.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".
        gpus: "current", "cuda:1" for the second GPU of this machine, or compute capabilities such as
            "sm_86,sm_89".
        workspace: GPU memory for trying tactics [MiB]; None allows all free memory.

    Raises:
        EngineError: the package is not installed, or it does not support the GPU.
    """
    trt = import_flavour(flavour)
    gpus, index = named_gpu(gpus)
    machine_gpus = find_gpus()
    if index and index >= len(machine_gpus):
        raise EngineError(f"--gpu cuda:{index}: CUDA sees {len(machine_gpus)} GPUs, numbered from 0")
    here = machine_gpus[index] if machine_gpus else None
    names = tuple(dict.fromkeys(name.strip() for name in gpus.split(",")))
    if wrong := [name for name in names if name != CURRENT and not re.fullmatch(r"sm_\d{2,3}", name)]:
        raise EngineError(
            f"--gpu {wrong[0]!r}: expected `current`, or compute capabilities such as sm_86,sm_89"
        )
    if CURRENT in names:
        if here is None:
            raise EngineError(
                "--gpu current: this machine has no NVIDIA GPU that answers; name one, such as "
                "--engine tensorrt-rtx --gpu sm_89, or run this on the machine that will run the engine"
            )
        names = tuple(here.capability if name == CURRENT else name for name in names)
    names = tuple(sorted(set(names), key=lambda name: int(name[3:])))
    known = buildable(trt, flavour, here)
    if unknown := [name for name in names if name not in known]:
        raise EngineError(
            f"--gpu {unknown[0]}: {flavour} {trt.__version__} builds here for {', '.join(known) or 'no GPU'}"
            f"{'; TensorRT builds only on a machine with that GPU' if flavour == 'tensorrt' else ''}"
        )
    runs = here if here is not None and here.capability in names else None
    ahead = flavour == "tensorrt-rtx"
    return EngineTarget(
        flavour=flavour,
        version=trt.__version__,
        capabilities=names,
        gpu=runs,
        ahead=ahead,
        index=index,
        workspace=workspace,
    )


def named_gpu(gpus: str) -> tuple[str, int]:
    """Parse "cuda:N" into "current" and the index N; other texts are returned with index 0."""
    match = re.fullmatch(r"cuda(?::(\d+))?", gpus.strip())
    return (CURRENT, int(match[1] or 0)) if match else (gpus, 0)


def without_refused_gpus(
    target: EngineTarget, precision: Precision, *, graph: str, report: Report
) -> EngineTarget:
    """Remove the GPUs for which TensorRT for RTX has no matrix products of a precision.

    Raises:
        EngineError: no GPU is left.
    """
    refused = NO_PRODUCTS.get((target.flavour, precision), ())
    left = tuple(gpu for gpu in target.capabilities if gpu not in refused)
    if left == target.capabilities:
        return target
    names = ", ".join(gpu for gpu in target.capabilities if gpu in refused)
    why = f"{target.flavour} has no {precision} products for {names}"
    if not left:
        raise EngineError(f"{graph}: {why}; build its fp16 graph, or use ONNX Runtime")
    report(f"{graph}: {why}: left out, the engine is built for {', '.join(left)}")
    return replace(target, capabilities=left)


def buildable(trt: ModuleType, flavour: Flavour, here: Gpu | None) -> tuple[str, ...]:
    """List the compute capabilities for which this machine can build engines."""
    if flavour == "tensorrt":
        return (here.capability,) if here else ()
    members = trt.ComputeCapability.__members__
    return tuple(f"sm_{name[2:]}" for name in members if re.fullmatch(r"SM\d+", name))


def build_engines(
    bundle: Bundle,
    target: EngineTarget,
    report: Report = lambda _: None,
    *,
    only: Sequence[str] = (),
) -> list[EngineRecord]:
    """Build, check and store engines of all graphs except text: in FP16 and BF16 if they exist, else FP32.

    Args:
        bundle: a checked bundle.
        target: from `choose_target`.
        report: called with a short description of each step.
        only: names of graphs; empty for the selection above.

    Raises:
        EngineError: a graph cannot be built, or an engine does not match the bundle.
    """
    names = [name for name in bundle.manifest.graphs if name not in ("text", "vision.int8")]
    if unknown := [name for name in only if name not in names]:
        raise EngineError(f"{bundle.path}: --graph {unknown[0]}: expected one of {', '.join(names)}")
    graphs = list(only) or [name for name in names if name.endswith((".fp16", ".bf16"))] or names
    return [build_engine(bundle, graph, target=target, report=report) for graph in graphs]


def build_engine(
    bundle: Bundle, graph: str, *, target: EngineTarget, report: Report = lambda _: None
) -> EngineRecord:
    """Build, check and store the engine of a graph, unless it is in the cache.

    Args:
        bundle: a checked bundle.
        graph: name of the graph.
        target: from `choose_target`.
        report: called with a short description of each step.

    Raises:
        EngineError: the graph cannot be parsed or built, or the engine does not match the bundle.
        OutputError: the disk is full.
    """
    if bundle.manifest.graphs[graph].precision not in TYPES:
        raise EngineError(f"{graph} is for ONNX Runtime on a CPU; build the engine of another graph")
    target = without_refused_gpus(target, bundle.manifest.graphs[graph].precision, graph=graph, report=report)
    key = target.key(bundle, graph)
    title = f"{graph} for {', '.join(target.capabilities)} with {target.flavour} {target.version}"
    with engine_cache.building(key) as waited:
        known = next((record for record in engine_cache.list_engines()[0] if record.key == key), None)
        if known is not None:
            engine_cache.read_engine(known)
            report(
                f"{title}: {'built meanwhile' if waited else 'is in the cache'}, {known.size / 2**20:.1f} MiB"
            )
            return known
        report(f"building {title}")
        data, layers, seconds = _build(bundle, graph, target=target, report=report)
        cosine = _prove(bundle, graph, target=target, data=data, report=report)
        record = EngineRecord(
            record_version=engine_cache.RECORD_VERSION,
            key=key,
            model=bundle.manifest.name,
            graph=graph,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            seconds=round(seconds, 2),
            layers=dict(sorted(Counter(f"{layer.kind} {layer.dtype}" for layer in layers).items())),
            golden_cosine=cosine,
        )
        report(f"keeping {len(data) / 2**20:.1f} MiB, built in {seconds:.1f} s")
        return engine_cache.store_engine(record, data)


def _build(
    bundle: Bundle, graph: str, *, target: EngineTarget, report: Report
) -> tuple[bytes, list[Layer], float]:
    trt = import_flavour(target.flavour)
    spec = bundle.manifest.graphs[graph]
    errors = ErrorRecorder(trt)
    builder = make(
        "builder",
        lambda: trt.Builder(errors.logger),
        flavour=target.flavour,
        version=target.version,
        errors=errors,
    )
    network = builder.create_network(network_flags(trt, bundle, target))
    parse(trt, network, errors=errors, file=bundle.file(spec.file))
    layers = network_layers(network)
    report_plugins(layers, bundle, target=target, report=report)
    check_layers(layers, spec.precision, f"{spec.file} as {target.flavour} {target.version} reads it")
    check_tensors(network_tensors(network), spec, f"{spec.file} as {target.flavour} reads it")
    config = configure(
        trt, builder, network=network, target=target, sizes=engine_cache.profile(bundle, graph)
    )
    timings = None if target.flavour == "tensorrt-rtx" else TimingCache(config, target)
    expected = expected_seconds(target, bundle.manifest.name, graph)
    build = build_watched(trt, builder, network=network, config=config, expected=expected, report=report)
    if build.data is None:
        raise EngineError(
            f"{spec.file}: {target.flavour} {target.version} built no engine for "
            f"{', '.join(target.capabilities)}: {errors.reasons()}"
        )
    if timings is not None:
        timings.keep()
    return build.data, layers, build.seconds


def configure(
    trt: ModuleType, builder: Trt, *, network: Trt, target: EngineTarget, sizes: tuple[int, int, int]
) -> Trt:
    """Return the builder's configuration: FP32 without TF32, one profile, workspace and GPUs of the target.

    Args:
        trt: the module of TensorRT.
        builder: makes the configuration.
        network: its dynamic sides get the sizes of the profile.
        target: what the engine is built with and for.
        sizes: the profile's least, best and largest batch.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector shows types only then
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: FP32 products would have 10 bits of mantissa
    if target.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace << 20)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sides = tuple(tensor.shape)
        profile.set_shape(
            tensor.name, *(tuple(size if side == -1 else side for side in sides) for size in sizes)
        )
    config.add_optimization_profile(profile)
    if target.flavour == "tensorrt-rtx":
        config.num_compute_capabilities = len(target.capabilities)
        for index, name in enumerate(target.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{name[3:]}"), index)
    return config


def network_flags(trt: ModuleType, bundle: Bundle, target: EngineTarget) -> int:
    """Return the flags of a new network; register the bundle's fused kernels if TensorRT supports them.

    Raises:
        EngineError: the bundle has kernels for this GPU, but not all of them.
    """
    flags = trt.NetworkDefinitionCreationFlag
    if not takes_plugins(bundle, target):
        return 1 << int(flags.STRONGLY_TYPED)
    from ovsdino_export.engines.plugin import register_plugins

    register_plugins(bundle, target.capabilities[0])
    return 1 << int(flags.STRONGLY_TYPED) | 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)


def takes_plugins(bundle: Bundle, target: EngineTarget) -> bool:
    """Tell whether TensorRT can use the bundle's fused kernels: version 10.10 or later, and a suitable GPU.

    10.9 has ahead-of-time plugins, but reads their namespace from an attribute; the graph has it as domain.
    """
    numbers = tuple(int(part) for part in target.version.split(".")[:2])
    fused = [kernel for kernel in bundle.manifest.kernels if kernel.operator in FUSED]
    gpu = target.capabilities[0]
    runs = any(runs_on(kernel.target, gpu) for kernel in fused)
    return target.flavour == "tensorrt" and numbers >= (10, 10) and runs


def report_plugins(layers: Sequence[Layer], bundle: Bundle, *, target: EngineTarget, report: Report) -> None:
    """Report how many fused kernels TensorRT's parser used."""
    if takes_plugins(bundle, target):
        count = sum(layer.kind == PLUGIN_LAYER for layer in layers)
        otherwise = "" if count else "; the functions' bodies run instead, which is slower"
        report(f"{count} fused kernels in the network{otherwise}")


def parse(trt: ModuleType, network: Trt, *, errors: ErrorRecorder, file: Path) -> None:
    """Parse an ONNX graph into a network.

    Raises:
        EngineError: the parser rejects the graph; the message names the node.
    """
    parser = trt.OnnxParser(network, errors.logger)
    if not parser.parse_from_file(str(file)):
        first = parser.get_error(0) if parser.num_errors else None
        why = f"{first.node_name()}: {first.desc()}" if first else errors.reasons()
        raise EngineError(f"{file}: TensorRT's parser refuses it: {' '.join(why.split())}")


def network_tensors(network: Trt) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of a network's inputs and outputs, by name."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    return {tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors}


def _prove(bundle: Bundle, graph: str, *, target: EngineTarget, data: bytes, report: Report) -> float | None:
    """Inspect an engine and run it if possible; return its golden cosine, None if it cannot run here."""
    if not graph.startswith("vision"):
        return None  # the golden pair of the whole chain is for the runtime
    if target.gpu is None:
        report("no such GPU here: the engine is tried on the golden photo before its first use")
        return None
    spec = bundle.manifest.graphs[graph]
    engine = GpuEngine(data, target.flavour, device=open_cuda(target.index))
    where = f"the engine of {spec.file}"
    check_tensors(engine.tensors, spec, where)
    check_layers(engine_layers(engine.inspect()), spec.precision, where)
    cosine = verify_golden(bundle, engine)
    engine.close()
    report(f"the engine reproduces the golden photo: cosine {cosine:.5f}")
    return cosine


def expected_seconds(target: EngineTarget, model: str, graph: str) -> float | None:
    """Estimate the duration of a build from earlier ones [s]; None if there was none."""
    records = engine_cache.list_engines()[0]
    alike = [record for record in records if (record.key.flavour, record.model) == (target.flavour, model)]
    same = [record for record in alike if record.graph == graph] or alike
    if not same:
        return None
    last = max(same, key=lambda record: record.file.stat().st_mtime)
    return last.seconds * len(target.capabilities) / len(last.key.capabilities)


class TimingCache:
    """TensorRT's timing cache: measured tactics on this GPU, which make the next build faster.

    Args:
        config: builder configuration that receives the cache.
        target: its flavour, version and GPU name the file.
    """

    def __init__(self, config: Trt, target: EngineTarget) -> None:
        gpu = target.gpu.name if target.gpu else ""
        name = re.sub(r"\W+", "-", f"{target.flavour}-{target.version}-{gpu}-{target.capabilities[0]}")
        self.path = engine_cache.engines_dir() / f"{name}.timings"
        self.config = config
        held = self.path.read_bytes() if self.path.is_file() else b""
        self.cache = config.create_timing_cache(held)
        if not config.set_timing_cache(self.cache, False):  # made by another version: start anew
            self.cache = config.create_timing_cache(b"")
            config.set_timing_cache(self.cache, False)

    def keep(self) -> None:
        """Write the cache to disk."""
        write_bytes(self.path, bytes(self.config.get_timing_cache().serialize()))
