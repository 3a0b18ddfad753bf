"""ONNX Runtime on a GPU: on a stream of the device pipeline with bound memory, or with arrays."""

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.cuda.driver import CudaStream
from ovsdino_runtime.engines.onnxruntime import run_session
from ovsdino_runtime.engines.stream_engine import DeviceTensor
from ovsdino_runtime.geometry.types import Array

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PLACES = {CUDA: "cuda", CPU: "cpu"}
WINDOWS_AT_ONCE = 4
# ONNX Runtime would wait for the GPU at the end of each run.
NO_WAIT = "disable_synchronize_execution_providers"


class OrtStreamEngine:
    """ONNX Runtime on one CUDA stream, which executes all its runs in order.

    Args:
        file: the ONNX graph; external data lies beside it.
        stream: stream of the runs.
        provider: "CUDAExecutionProvider"; tests pass the CPU's, which runs synchronously.
        index: index of the stream's GPU, in CUDA's order.

    Raises:
        EngineError: ONNX Runtime is not installed, cannot load the graph, or falls back to another provider.
    """

    def __init__(self, file: Path, stream: CudaStream, provider: str = CUDA, *, index: int = 0) -> None:
        self._session, self.description = _open_session(file, provider, stream, index=index)
        self._index = index
        self._stream = stream
        self._place = PLACES[provider]
        self._run_options = _import_ort(provider).RunOptions()
        self._run_options.add_run_config_entry(NO_WAIT, "1")
        self.contexts = 1
        self.max_count = WINDOWS_AT_ONCE
        self.capturable = False  # it takes memory as it runs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name, and wait for them.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        return run_session(self._session, inputs, self.description)

    def enqueue(
        self,
        context: int,
        inputs: Mapping[str, DeviceTensor],
        *,
        outputs: Mapping[str, DeviceTensor],
        stream: CudaStream,
    ) -> None:
        """See `StreamEngine`."""
        if context or stream.handle != self._stream.handle:
            raise EngineError(f"{self.description}: has one context, on the stream that it was opened with")
        binding = self._session.io_binding()
        for name, place in inputs.items():
            binding.bind_input(name, self._place, self._index, np.float32, place.shape, place.address)
        for name, place in outputs.items():
            binding.bind_output(name, self._place, self._index, np.float32, place.shape, place.address)
        self._session.run_with_iobinding(binding, self._run_options)

    def close(self) -> None:
        """See `StreamEngine`."""
        self._session = None


def _open_session(
    file: Path, provider: str, stream: CudaStream | None = None, *, index: int = 0
) -> tuple[Any, str]:
    """Open a session and describe it; without a stream ONNX Runtime creates its own."""
    ort = _import_ort(provider)
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they are raised as well
    settings = cuda_settings(index, stream) if provider == CUDA else {}
    try:
        session = ort.InferenceSession(str(file), options, providers=[(provider, settings)])
    except (Fail, RuntimeException) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{file}: ONNX Runtime {ort.__version__} cannot load it: {reason}") from error
    check_provider(session.get_providers(), provider, ort.__version__)
    return session, f"ONNX Runtime {ort.__version__}, {provider}"


def cuda_settings(index: int, stream: CudaStream | None) -> dict[str, str]:
    """Return the options of ONNX Runtime's CUDA provider; FP32 products use FP32, not TF32."""
    settings = {"device_id": str(index), "use_tf32": "0"}
    if stream is not None:
        settings["user_compute_stream"] = str(stream.handle)
    return settings


def check_provider(runs: list[str], wanted: str, version: str) -> None:
    """Compare the provider that runs a graph with the requested one.

    Raises:
        EngineError: ONNX Runtime has fallen back to another provider.
    """
    if runs[0] != wanted:
        raise EngineError(
            f"ONNX Runtime {version} runs the graph on {runs[0]}, asked for is {wanted}: CUDA's libraries "
            "cannot be loaded; pip install 'onnxruntime-gpu[cuda,cudnn]' brings them, or use device 'cpu'"
        )


def _import_ort(provider: str) -> Any:  # noqa: ANN401 - ONNX Runtime ships no types
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; it would leave files as well
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EngineError(f"ONNX Runtime cannot be imported ({error}); {install_command('cuda')}") from error
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"ONNX Runtime {ort.__version__} is built without {provider}; "
            f"pip uninstall onnxruntime, then {install_command('cuda')}"
        )
    if provider == CUDA:
        load_cuda()
    return ort


@cache
def load_cuda() -> None:
    """Load the CUDA libraries of pip's nvidia packages, which the system's loader does not find."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # `check_provider` reports what cannot be loaded
            ort.preload_dlls()
