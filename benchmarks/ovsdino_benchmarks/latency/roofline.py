"""The roofline floor of a compute stage: its arithmetic and traffic at the measured rates of the machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

OnnxModel = Any  # onnx.ModelProto; onnx is imported when a graph is read
OnnxNode = Any  # onnx.NodeProto
GEMMS = ((1024, 3072, 768), (2048, 768, 3072))  # M, K, N: a ViT-B's layers on one window and on two
COPY_BYTES = 64 << 20
TRIES = 25  # a floor is the best of many: few tries on a shared machine gave half the rate


class FlopsError(OvsdinoError):
    """The arithmetic of a graph cannot be counted."""


@dataclass(frozen=True)
class Rates:
    """Measured rates of the machine, best of several tries."""

    gflops: float  # matrix products by ONNX Runtime
    copy_gb_s: float  # bytes read and written

    def compute_ms(self, flops: float) -> float:
        """Return the minimal time for this many floating-point operations [ms]."""
        return flops / self.gflops / 1e6

    def copy_ms(self, bytes_moved: float) -> float:
        """Return the minimal time for reading and writing this many bytes in total [ms]."""
        return bytes_moved / self.copy_gb_s / 1e6


def measure_rates(precision: Precision, threads: int) -> Rates:
    """Measure the rates of matrix products and of copies in memory."""
    return Rates(_gemm_gflops(precision, threads), _copy_gb_s())


def count_flops(file: Path, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Count the floating-point operations of the matrix products of an ONNX graph; a multiply-add is two.

    Elementwise operations are left out: they are below one per cent in a ViT.

    Args:
        file: the graph.
        inputs: shape of each input, by name.

    Raises:
        FlopsError: the shapes of a product are unknown, or its operator is not supported here.
    """
    import onnx
    from onnx import inliner, shape_inference

    model = inliner.inline_local_functions(onnx.load(file, load_external_data=False))
    for value in model.graph.input:
        for dimension, length in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
            dimension.dim_value = length
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model = shape_inference.infer_shapes(model, data_prop=True)
    shapes = _shapes(model)
    return sum(_node_flops(node, shapes, file) for node in model.graph.node)


def _shapes(model: OnnxModel) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _node_flops(node: OnnxNode, shapes: Mapping[str, tuple[int, ...]], file: Path) -> int:
    if node.op_type in ("Einsum", "LSTM", "GRU", "RNN", "If", "Loop", "Scan"):
        raise FlopsError(
            f"{file}: {node.op_type} {node.name!r} is not counted; export the model with plain products"
        )
    if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
        return 0
    try:
        left, right, result = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    except KeyError as error:
        raise FlopsError(
            f"{file}: the shape of {error} at {node.op_type} {node.name!r} is not known"
        ) from error
    if node.op_type == "MatMul":
        return 2 * prod(result) * left[-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * prod(result) * left[0 if transposed else 1]
    return 2 * prod(result if node.op_type == "Conv" else left) * prod(right[1:])


def _gemm_gflops(precision: Precision, threads: int) -> float:
    return max(_product_gflops(*size, precision=precision, threads=threads) for size in GEMMS)


def _product_gflops(m: int, k: int, n: int, *, precision: Precision, threads: int) -> float:
    kinds: dict[str, tuple[type[np.generic], type[np.generic]]] = {
        "fp32": (np.float32, np.float32),
        "int8": (np.uint8, np.int8),  # what goes in is unsigned, weights are signed
    }
    kind, kind_of_weight = kinds.get(precision, (np.float16, np.float16))
    random = np.random.default_rng(0)
    left = random.uniform(0, 99, size=(m, k)).astype(kind)
    with scratch_folder("bench") as folder:
        file = folder / "gemm.onnx"
        _write_product(file, left, random.uniform(-9, 9, size=(k, n)).astype(kind_of_weight))
        engine = OnnxRuntimeEngine(file, threads=threads)
        return 2 * m * k * n / _best(lambda: engine.run({"left": left})) / 1e9


def _write_product(
    file: Path, activations: npt.NDArray[np.generic], weights: npt.NDArray[np.generic]
) -> None:
    import onnx
    from onnx import helper, numpy_helper

    whole = activations.dtype == np.uint8
    kind = helper.np_dtype_to_tensor_dtype(activations.dtype)
    left = helper.make_tensor_value_info("left", kind, activations.shape)
    sums = onnx.TensorProto.INT32 if whole else kind
    result = helper.make_tensor_value_info("result", sums, [len(activations), weights.shape[1]])
    node = helper.make_node("MatMulInteger" if whole else "MatMul", ["left", "right"], ["result"])
    graph = helper.make_graph([node], "gemm", [left], [result], [numpy_helper.from_array(weights, "right")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def _copy_gb_s() -> float:
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2 * COPY_BYTES / _best(lambda: np.copyto(target, source)) / 1e9


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first one prepares
