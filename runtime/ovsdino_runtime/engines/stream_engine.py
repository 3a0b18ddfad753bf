"""Engines that work on a stream: they return at once, and read and write where the pipeline's memory lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ovsdino_runtime.cuda.driver import Stream
from ovsdino_runtime.engines.onnxruntime import Engine

__all__ = ["Place", "Stream", "StreamEngine"]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies on the device; its values are FP32."""

    address: int
    shape: tuple[int, ...]


class StreamEngine(Engine, Protocol):
    """An engine that a device pipeline can use."""

    contexts: int  # how many runs may be in flight, each on a stream of its own
    max_count: int  # windows at once
    capturable: bool  # a CUDA graph may hold its runs

    def enqueue(
        self, context: int, inputs: Mapping[str, Place], outputs: Mapping[str, Place], stream: Stream
    ) -> None:
        """Submit a run.

        Args:
            context: which of the contexts; one has one run in flight at a time.
            inputs, outputs: of the graph, by name.
            stream: where it is to run.

        Raises:
            EngineError: the engine does not take the shapes, or did not start.
        """

    def close(self) -> None:
        """Release what the engine holds; wait for a run in flight."""
