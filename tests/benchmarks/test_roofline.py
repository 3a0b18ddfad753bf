"""FLOPs against a count by hand; rates that are positive."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ovsdino_benchmarks.latency import roofline as floor
from ovsdino_benchmarks.latency.roofline import FlopsError, Rates, count_flops, measure_rates


def save(path, nodes, weights, shape=("batch", 3, 8, 8), functions=()):
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
    inputs, outputs = [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8, functions=list(functions)), path)
    return path


def test_each_product_is_counted_as_by_hand(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], strides=[2, 2], group=1),  # (2, 5, 4, 4)
        helper.make_node("Conv", ["c", "depthwise"], ["d"], pads=[1, 1, 1, 1], group=5),  # (2, 5, 4, 4)
        helper.make_node("ConvTranspose", ["d", "up"], ["u"], strides=[2, 2]),  # (2, 6, 8, 8)
        helper.make_node("Flatten", ["u"], ["f"]),  # (2, 384)
        helper.make_node("Gemm", ["f", "weight"], ["g"]),  # (2, 7)
        helper.make_node("MatMul", ["g", "last"], ["m"]),  # (2, 9)
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    weights = {
        "kernel": (5, 3, 2, 2),
        "depthwise": (5, 1, 3, 3),
        "up": (5, 6, 2, 2),
        "weight": (384, 7),
        "last": (7, 9),
    }
    file = save(tmp_path / "g.onnx", nodes, weights)
    conv = 2 * (2 * 5 * 4 * 4) * (3 * 2 * 2)
    depthwise = 2 * (2 * 5 * 4 * 4) * (1 * 3 * 3)
    up = 2 * (2 * 5 * 4 * 4) * (6 * 2 * 2)
    expected = conv + depthwise + up + 2 * (2 * 7) * 384 + 2 * (2 * 9) * 7
    assert count_flops(file, {"x": (2, 3, 8, 8)}) == expected
    assert count_flops(file, {"x": (4, 3, 8, 8)}) == 2 * expected


def test_products_inside_a_function_are_counted(tmp_path):
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("own", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("Product", ["x", "w"], ["y"], domain="own")
    file = save(tmp_path / "g.onnx", [call], {"w": (8, 4)}, functions=[function])
    assert count_flops(file, {"x": (2, 3, 8, 8)}) == 2 * (2 * 3 * 8 * 4) * 8


def test_what_cannot_be_counted_is_refused(tmp_path):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bchw,wd->bchd")
    file = save(tmp_path / "g.onnx", [node], {"w": (8, 4)})
    with pytest.raises(FlopsError, match=r"Einsum .* is not counted"):
        count_flops(file, {"x": (2, 3, 8, 8)})


def test_a_floor_is_work_over_rate():
    rates = Rates(gflops=100, copy_gb_s=10)
    assert rates.compute_ms(1e9) == pytest.approx(10)
    assert rates.copy_ms(1e9) == pytest.approx(100)


def test_rates_are_measured(quick):
    rates = measure_rates("fp32", 1)
    assert 0.1 < rates.gflops < 1e6
    assert 0.01 < rates.copy_gb_s < 1e5


def test_int8_products_have_a_rate_of_their_own():
    assert 0 < floor._product_gflops(8, 32, 16, precision="int8", threads=1) < 1e6
