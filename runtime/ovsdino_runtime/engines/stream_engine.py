"""The interface of engines that run on a CUDA stream, on the memory of the device pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ovsdino_runtime.cuda.driver import CudaStream
from ovsdino_runtime.engines.onnxruntime import Engine

__all__ = ["CudaStream", "DeviceTensor", "StreamEngine"]


@dataclass(frozen=True)
class DeviceTensor:
    """Device address and shape of an FP32 tensor."""

    address: int
    shape: tuple[int, ...]


class StreamEngine(Engine, Protocol):
    """An engine that the device pipeline can use."""

    contexts: int  # how many runs may be in flight, each on a stream of its own
    max_count: int  # windows at once
    capturable: bool  # a CUDA graph may hold its runs

    def enqueue(
        self,
        context: int,
        inputs: Mapping[str, DeviceTensor],
        *,
        outputs: Mapping[str, DeviceTensor],
        stream: CudaStream,
    ) -> None:
        """Submit a run and return immediately.

        Args:
            context: index of the context; a context runs one submission at a time.
            inputs, outputs: places of the graph's tensors, by name.
            stream: executes the run.

        Raises:
            EngineError: the engine does not accept the shapes, or did not start.
        """

    def close(self) -> None:
        """Wait for a run in flight, then release all resources."""
