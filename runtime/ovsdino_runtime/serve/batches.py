"""Windows of several requests in one run of the vision engine."""

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
class _Order:
    """What one request wants, and what became of it."""

    inputs: Mapping[str, Array]
    outputs: dict[str, Array] | None = None
    error: Exception | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What must be equal for two orders to be run as one."""
        return {name: array.shape[1:] for name, array in self.inputs.items()}

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


class SharedBatches:
    """An engine whose callers join: those who come while it is busy are run together next, in their order.

    Nobody waits for others to come: a lone caller is run at once. Each thread that waits may be the one that
    runs for all.

    Args:
        engine: runs a graph whose inputs all begin with the same axis, as its outputs do.
        most: along this axis in one run; a caller with more is run alone.
        saw: told of each run's length.
    """

    def __init__(self, engine: Engine, max_count: int, saw: Callable[[int], object] = lambda _: None) -> None:
        self.description = engine.description
        self._engine, self._max_count, self._saw = engine, max_count, saw
        self._waiting = deque[_Order]()
        self._changing = threading.Lock()  # held to touch what waits
        self._running = threading.Lock()  # held to run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs of the graph from all its inputs, by name.

        Raises:
            Exception: what the engine raised, to all whom it ran for.
        """
        order = _Order(inputs)
        with self._changing:
            self._waiting.append(order)
        while order.outputs is None and order.error is None:
            with self._running:
                if order.outputs is None and order.error is None:
                    self._run_next()
        if order.error is not None:
            raise order.error
        assert order.outputs is not None
        return order.outputs

    def _run_next(self) -> None:
        orders = self._take()
        names = orders[0].inputs
        try:
            joined = {name: np.concatenate([order.inputs[name] for order in orders]) for name in names}
            outputs = self._engine.run(joined)
        except Exception as error:  # noqa: BLE001 - raised again in each caller's thread
            for order in orders:
                order.error = error
            return
        ends = np.cumsum([len(order) for order in orders])
        self._saw(int(ends[-1]))
        for order, end in zip(orders, ends, strict=True):
            order.outputs = {name: array[end - len(order) : end] for name, array in outputs.items()}

    def _take(self) -> list[_Order]:
        """Take what waits from the front, as much as fits into one run."""
        with self._changing:
            taken = [self._waiting.popleft()]
            room = self._max_count - len(taken[0])
            while (
                self._waiting and len(self._waiting[0]) <= room and self._waiting[0].shapes == taken[0].shapes
            ):
                taken.append(self._waiting.popleft())
                room -= len(taken[-1])
        return taken


def share_batches(pipeline: Pipeline, max_count: int, saw: Callable[[int], object]) -> None:
    """Let photos that a pipeline sees at the same time share runs of its vision engine; see `SharedBatches`.

    Raises:
        EngineError: it is a device's, which sees one photo at a time.
    """
    if not isinstance(pipeline, HostPipeline | Dinov3segPipeline):
        raise EngineError(
            "windows of several photos are run together on the processor alone; leave out --batch"
        )
    stage = pipeline.encode_windows
    pipeline.encode_windows = replace(stage, vision=SharedBatches(stage.vision, max_count, saw))
