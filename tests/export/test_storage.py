"""Smaller files, the same bits."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from ovsdino_export.graphs.storage import STORED, Checkpoint, as_half, save_sharing_weights, store_as_half


def exact(*shape, seed=0):
    """FP32 values that FP16 holds."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16).astype(np.float32)


def matmul(weights, kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("y", kind, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model_or_path, x):
    source = model_or_path if isinstance(model_or_path, str) else model_or_path.SerializeToString()
    return onnxruntime.InferenceSession(source).run(None, {"x": x})[0]


def test_weights_that_fp16_holds_take_half_the_room_and_keep_their_bits():
    model, x = matmul(exact(64, 32)), exact(3, 64, seed=1) / 3
    before, size = run(model, x), model.ByteSize()
    assert store_as_half(model) == 1
    assert model.ByteSize() < 0.6 * size
    assert model.graph.initializer[0].name == "w" + STORED
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, x).view(np.uint32), before.view(np.uint32))


@pytest.mark.parametrize("value", [0.1, 1e5, 1e-9, np.nan, np.inf, -0.0, 2.0**-24, 65504.0])
def test_only_what_survives_bit_for_bit_is_halved(value):
    values = np.full(4, value, np.float32)
    half = as_half(values)
    survives = value in (-0.0, 2.0**-24, 65504.0) or value == np.inf
    if np.isnan(value):  # either is right, as long as the bits are
        survives = half is not None
    assert (half is not None) == survives
    if half is not None:
        np.testing.assert_array_equal(half.astype(np.float32).view(np.uint32), values.view(np.uint32))


def test_one_value_that_does_not_survive_keeps_the_whole_tensor():
    weights = exact(64, 32)
    weights[5, 5] = 0.1
    model = matmul(weights)
    assert store_as_half(model) == 0
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weights)


def test_small_tensors_are_left_alone():
    assert store_as_half(matmul(exact(4, 4))) == 0


def test_two_graphs_share_each_tensor_once(tmp_path):
    weights = exact(64, 32)
    single, half = matmul(weights), matmul(weights.astype(np.float16), TensorProto.FLOAT16)
    store_as_half(single)
    x = exact(2, 64, seed=1)
    expected = run(matmul(weights), x), run(half, x.astype(np.float16))
    save_sharing_weights({"a.onnx": single, "b.onnx": half}, tmp_path, "w.data")
    assert (tmp_path / "w.data").stat().st_size == weights.size * 2
    onnx.checker.check_model(str(tmp_path / "a.onnx"))
    np.testing.assert_array_equal(run(str(tmp_path / "a.onnx"), x), expected[0])
    np.testing.assert_array_equal(run(str(tmp_path / "b.onnx"), x.astype(np.float16)), expected[1])


def test_shared_tensors_are_aligned_and_distinct_ones_kept(tmp_path):
    one, other = matmul(exact(33, 17)), matmul(exact(33, 17, seed=1))
    save_sharing_weights({"a.onnx": one, "b.onnx": other}, tmp_path, "w.data")
    loaded = [onnx.load(tmp_path / name).graph.initializer[0] for name in ("a.onnx", "b.onnx")]
    for seed, tensor in enumerate(loaded):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), exact(33, 17, seed=seed))
    offsets = {entry.value for entry in other.graph.initializer[0].external_data if entry.key == "offset"}
    assert all(int(offset) % 64 == 0 and int(offset) > 0 for offset in offsets)


def test_graphs_read_their_weights_from_a_checkpoint_of_torch(tmp_path):
    """A matrix as torch holds it, a vector in another shape, and one tensor that the checkpoint lacks."""
    linear, scale, own = exact(32, 64), exact(32, seed=1), exact(32, 32, seed=2)
    save_file(
        {"linear.weight": linear.astype(np.float16), "scale": scale, "other": exact(8)},
        tmp_path / "v.safetensors",
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Mul", ["a", "s"], ["b"]),
            helper.make_node("MatMul", ["b", "own"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(np.ascontiguousarray(linear.T), "w"),
            numpy_helper.from_array(scale.reshape(1, 32), "s"),
            numpy_helper.from_array(own, "own"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    store_as_half(model)
    held = Checkpoint(tmp_path / "v.safetensors")
    save_sharing_weights({"g.onnx": model}, tmp_path, "g.data", checkpoint=held)
    assert (tmp_path / "g.data").stat().st_size == own.size * 2  # FP16: all that the checkpoint lacks
    assert (tmp_path / "g.onnx").stat().st_size < 1500
    x = exact(5, 64, seed=3)
    expected = (x @ linear.T * scale) @ own
    np.testing.assert_allclose(run(str(tmp_path / "g.onnx"), x), expected, rtol=1e-5, atol=1e-4)


def test_no_file_of_weights_where_the_checkpoint_holds_them_all(tmp_path):
    weights = exact(64, 32)
    save_file({"w": weights.astype(np.float16)}, tmp_path / "v.safetensors")
    model = matmul(weights)
    store_as_half(model)
    save_sharing_weights(
        {"g.onnx": model}, tmp_path, "g.data", checkpoint=Checkpoint(tmp_path / "v.safetensors")
    )
    assert {path.name for path in tmp_path.iterdir()} == {"g.onnx", "v.safetensors"}
    x = exact(3, 64, seed=1)
    np.testing.assert_allclose(run(str(tmp_path / "g.onnx"), x), x @ weights, rtol=1e-5, atol=1e-4)
