"""Choose the products of an INT8 graph that take two passes: as few as possible, the noisiest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ovsdino_export import parity
from ovsdino_export.graphs.graph import VISION
from ovsdino_export.precision.quantize import products, quantize, rounding_noise
from ovsdino_export.rewrite.called_attention import keep_calls
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]
STEPS = 12  # so many sizes of the set are told apart


def fit(
    model: onnx.ModelProto,
    pixels: Floats,
    *,
    expected: Floats,
    bank: Floats,
    report: Report = lambda _: None,
) -> onnx.ModelProto:
    """Quantize a vision graph with as few two-pass products as the label agreement allows.

    Args:
        model: the FP32 graph with its weights inside; not changed.
        pixels: windows of the photos, (n, 3, S, S).
        expected: the torch model's own features of them, (n, D, h, w).
        bank: embeddings of the words among which positions are labelled, (N, D).
        report: called with the result of each attempt.

    Returns:
        The INT8 graph. All products take two passes if fewer are not enough.
    """
    order = noisiest(model, pixels[:1])

    def attempt(count: int) -> onnx.ModelProto | None:
        graph = quantize(model, twice=order[:count])
        figure = parity.compare(
            expected, _features(graph, pixels), bank=bank, thresholds=parity.THRESHOLDS["vision.int8"]
        )
        share = f"{count} of {len(order)} products in two passes"
        report(f"int8 with {share}: {figure.label_agreement:.2%} of the labels stay")
        return None if list(parity.misses(figure)) else graph

    return fewest(len(order), attempt) or quantize(model, twice=order)


def fewest(max_count: int, attempt: Callable[[int], onnx.ModelProto | None]) -> onnx.ModelProto | None:
    """Find the smallest number that passes by bisection; None if the largest does not pass.

    Args:
        max_count: the largest number.
        attempt: returns the graph for a number; None if it does not pass.
    """
    if graph := attempt(0):
        return graph
    step = max(1, -(-max_count // STEPS))
    low, high, best = 0, -(-max_count // step), attempt(max_count)
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        if graph := attempt(middle * step):
            high, best = middle, graph
        else:
            low = middle
    return best


def noisiest(model: onnx.ModelProto, pixels: Floats) -> Sequence[str]:
    """Return the products of a graph, sorted by rounding error of one pass, largest first: (n, 3, S, S)."""
    probe = keep_calls(model)
    inputs = {node.output[0]: node.input[0] for node in products(probe)}
    for name in dict.fromkeys(inputs.values()):
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    with scratch_folder("int8") as folder:
        values = OnnxRuntimeEngine(_save(probe, folder)).run({VISION.input: pixels})
    noise = {result: rounding_noise(values[name]) for result, name in inputs.items()}
    return sorted(noise, key=lambda result: -noise[result])


def _features(graph: onnx.ModelProto, pixels: Floats) -> Floats:
    with scratch_folder("int8") as folder:
        return parity.in_batches(parity.onnx_encoder(_save(graph, folder), VISION), pixels)


def _save(graph: onnx.ModelProto, folder: Path) -> Path:
    """Write a graph with its weights beside it: a ViT-L is over protobuf's 2 GB."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    onnx.save(copy, folder / "graph.onnx", save_as_external_data=True, location="graph.data")
    return folder / "graph.onnx"
