"""Batch the windows of several requests into one run of the vision engine."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.geometry.types import Array
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.pipelines.pipeline import HostPipeline, Pipeline


@dataclass(eq=False)
class _Call:
    """A waiting call of `SharedBatches.run`: its inputs, then its outputs or error."""

    inputs: Mapping[str, Array]
    outputs: dict[str, Array] | None = None
    error: Exception | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes without the batch axis; calls can share a run if these are equal."""
        return {name: array.shape[1:] for name, array in self.inputs.items()}

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


class SharedBatches:
    """An engine that batches concurrent calls: calls that arrive while it is busy share the next run.

    No call waits for others to arrive: if the engine is idle, a call runs immediately. Any waiting thread may
    execute the run for all.

    Args:
        engine: runs a graph whose inputs and outputs all begin with the batch axis.
        max_count: largest batch of one run; a larger call runs on its own.
        observe: called with the batch size of each run.
    """

    def __init__(
        self, engine: Engine, max_count: int, observe: Callable[[int], object] = lambda _: None
    ) -> None:
        self.description = engine.description
        self._engine, self._max_count, self._observe = engine, max_count, observe
        self._waiting = deque[_Call]()
        self._changing = threading.Lock()  # held to touch what waits
        self._running = threading.Lock()  # held to run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name.

        Raises:
            Exception: as the engine raised it, in every call of the shared run.
        """
        call = _Call(inputs)
        with self._changing:
            self._waiting.append(call)
        while call.outputs is None and call.error is None:
            with self._running:
                if call.outputs is None and call.error is None:
                    self._run_next()
        if call.error is not None:
            raise call.error
        assert call.outputs is not None
        return call.outputs

    def _run_next(self) -> None:
        calls = self._take()
        names = calls[0].inputs
        try:
            joined = {name: np.concatenate([call.inputs[name] for call in calls]) for name in names}
            outputs = self._engine.run(joined)
        except Exception as error:  # noqa: BLE001 - raised again in each caller's thread
            for call in calls:
                call.error = error
            return
        ends = np.cumsum([len(call) for call in calls])
        self._observe(int(ends[-1]))
        for call, end in zip(calls, ends, strict=True):
            call.outputs = {name: array[end - len(call) : end] for name, array in outputs.items()}

    def _take(self) -> list[_Call]:
        """Remove the first calls from the queue, as many as fit into one run."""
        with self._changing:
            taken = [self._waiting.popleft()]
            room = self._max_count - len(taken[0])
            while (
                self._waiting and len(self._waiting[0]) <= room and self._waiting[0].shapes == taken[0].shapes
            ):
                taken.append(self._waiting.popleft())
                room -= len(taken[-1])
        return taken


def share_batches(pipeline: Pipeline, max_count: int, observe: Callable[[int], object]) -> None:
    """Let concurrent photos share runs of a pipeline's vision engine; see `SharedBatches`.

    Raises:
        EngineError: the pipeline runs on a device, which encodes one photo at a time.
    """
    if not isinstance(pipeline, HostPipeline | Dinov3segPipeline):
        raise EngineError("windows of several photos share a run only on device 'cpu'; leave out --batch")
    stage = pipeline.encode_windows
    pipeline.encode_windows = replace(stage, vision=SharedBatches(stage.vision, max_count, observe))
