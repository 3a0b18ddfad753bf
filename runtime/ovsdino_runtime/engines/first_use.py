"""Build a missing engine on first use, in a child process."""

import logging
import subprocess
import sys
from importlib.util import find_spec

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.engines.cache import EngineRecord, Flavour, rebuild_command
from ovsdino_runtime.engines.tensorrt import find_cached_engine, find_gpu
from ovsdino_runtime.engines.tensorrt_library import import_flavour

# Needs neither torch nor onnx to build an engine.
BUILDER = "from ovsdino_export.cli import export; export(prog_name='ovsdino-export')"
STDERR = 2
log = logging.getLogger(__name__)


def find_or_build_engine(bundle: Bundle, graph: str, *, flavour: Flavour, index: int = 0) -> EngineRecord:
    """Find the engine of a graph for a GPU of this machine; build it if there is none.

    The build runs in a child process, so that its memory is released and Ctrl-C stops it. Its progress goes
    to standard error.

    Raises:
        EngineError: TensorRT or the GPU is missing, or the engine cannot be built.
    """
    import_flavour(flavour)
    find_gpu(index, flavour)
    try:
        return find_cached_engine(bundle, graph, flavour=flavour, index=index)
    except EngineError as missing:
        if find_spec("ovsdino_export") is None:
            raise
        log.info("%s", missing)
    command = build_command(bundle, graph, flavour=flavour, index=index)
    sys.stderr.write(f"no engine of {graph} for this GPU yet: building it, which takes minutes\n")
    done = subprocess.run(command, stdout=STDERR, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        why = next(reversed(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise EngineError(
            f"{bundle.manifest.name}: the engine of {graph} was not built: {why.removeprefix('Error: ')}; "
            f"the command was: {rebuild_command(bundle, flavour)}"
        )
    return find_cached_engine(bundle, graph, flavour=flavour, index=index)


def build_command(bundle: Bundle, graph: str, *, flavour: Flavour, index: int) -> list[str]:
    """Return the command that builds one engine."""
    command = [sys.executable, "-c", BUILDER, "--bundle", str(bundle.path), "--engine", flavour]
    return [*command, "--graph", graph, "--gpu", f"cuda:{index}"]
