"""INT8 for ONNX Runtime on a CPU: dynamic quantization of matrix products in attention and MLPs.

A product takes one or two passes. The second pass multiplies the rounding error of the first, itself in 8
bits, so that inputs have about 16 bits. Two passes are still faster than FP32, because INT8 products run at
several times its rate. Convolutions and everything else stay in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ovsdino_export.parity import ParityError
from ovsdino_export.rewrite.called_attention import keep_calls

LARGEST = 127  # of a weight; 8 bits whole, which takes VNNI or its like: others overflow 16 bits
TINY = 1e-30  # scale of a column of zeros


def quantize(model: onnx.ModelProto, *, twice: Collection[str] = ()) -> onnx.ModelProto:
    """Quantize the products with constant weights of a graph: INT8 weights per column, uint8 inputs.

    Args:
        model: the FP32 graph with its FP32 weights inside; not changed.
        twice: products that take two passes, by the name of their result; see `products`.

    Raises:
        ParityError: the graph has no such product.
    """
    plain = keep_calls(model)
    wanted = {node.output[0] for node in products(plain)}
    graph = plain.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored: dict[str, list[TensorProto]] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] not in wanted:
            nodes.append(node)
            continue
        weight = node.input[1]
        if weight not in stored:
            stored[weight] = list(_round_weight(weight, weights[weight]))
        nodes += _product(node, passes=2 if node.output[0] in twice else 1)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # they outlive the list
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(tensor for tensors in stored.values() for tensor in tensors)])
    return plain


def products(model: onnx.ModelProto) -> list[NodeProto]:
    """List the products with constant weights of a graph without local functions.

    Raises:
        ParityError: the graph has no such product.
    """
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    matmuls = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]
    if not matmuls:
        raise ParityError("the graph has no product with constant weights; export without --int8")
    return matmuls


def rounding_noise(values: npt.NDArray[np.float32]) -> float:
    """Return the relative rounding error of one pass: norm of the error over norm of the input."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = max((high - low) / 255, TINY)
    error = np.round(values / step) * step - values
    return float(np.linalg.norm(error) / max(float(np.linalg.norm(values)), TINY))


def _round_weight(name: str, weight: npt.NDArray[np.float32]) -> Iterator[TensorProto]:
    scale = np.maximum(np.abs(weight).max(axis=0) / LARGEST, TINY).astype(np.float32)  # (N,)
    yield numpy_helper.from_array(np.round(weight / scale).astype(np.int8), f"{name}/int8")  # (K, N)
    yield numpy_helper.from_array(scale, f"{name}/scale")


def _product(node: NodeProto, *, passes: int) -> Iterator[NodeProto]:
    """Yield the nodes that replace a product. ONNX Runtime fuses the nodes of each pass into one."""
    (value, weight), result = node.input, node.output[0]
    if passes == 1:
        yield from _pass(value, weight, result)
        return
    first, second = f"{result}/first", f"{result}/second"
    yield from _pass(value, weight, first)
    quantized = [f"{first}/{part}" for part in ("int8", "scale", "zero")]
    yield helper.make_node("DequantizeLinear", quantized, [f"{first}/rounded"])
    yield helper.make_node("Sub", [value, f"{first}/rounded"], [f"{second}/value"])
    yield from _pass(f"{second}/value", weight, second)
    yield helper.make_node("Add", [first, second], [result], name=node.name)


def _pass(value: str, weight: str, result: str) -> Iterator[NodeProto]:
    quantized, scale, zero = (f"{result}/{part}" for part in ("int8", "scale", "zero"))
    whole, wide, both = (f"{result}/{part}" for part in ("int32", "float", "scales"))
    yield helper.make_node("DynamicQuantizeLinear", [value], [quantized, scale, zero])
    yield helper.make_node("MatMulInteger", [quantized, f"{weight}/int8", zero], [whole])
    yield helper.make_node("Cast", [whole], [wide], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [scale, f"{weight}/scale"], [both])
    yield helper.make_node("Mul", [wide, both], [result])
