"""Graphs with the fused operators as local functions: the same numbers everywhere, clean bodies."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ovsdino_export.export import export_vision
from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.graphs.lint import lint
from ovsdino_export.graphs.local_functions import DOMAIN, call_functions, define_functions
from ovsdino_export.graphs.storage import save_sharing_weights, store_as_half
from ovsdino_export.pipeline import VisionPipeline
from ovsdino_runtime.base.errors import OvsdinoError

CALLS = ["DepthwiseBlock", "DepthwiseBlock", "DepthwiseBlockStride2", "PreservationGate"]


@pytest.fixture(scope="module")
def called(tiny):
    """The vision graphs with calls, by precision."""
    example = torch.zeros(2, 3, 64, 64)
    return {
        precision: export_graph(
            call_functions(VisionPipeline(tiny, precision)), example, VISION, precision=precision
        )
        for precision in ("fp32", "fp16")
    }


def run(model, pixels):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"pixels": pixels.numpy()})[0]


def test_each_fused_operator_is_a_call(called):
    for model in called.values():
        assert [node.op_type for node in model.graph.node if node.domain == DOMAIN] == CALLS
        assert sorted(function.name for function in model.functions) == sorted(set(CALLS))
        assert not any(node.attribute for node in model.graph.node if node.domain == DOMAIN)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_gives_the_numbers_of_the_plain_graph(called, graphs, pixels, precision):
    np.testing.assert_array_equal(run(called[precision], pixels), run(graphs[precision], pixels))


def test_onnx_runtime_ends_with_the_same_operators(called, graphs, tmp_path):
    """So neither its speed nor its memory depends on the functions."""
    left = []
    for model in (called["fp32"], graphs["fp32"]):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        left.append(Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node))
    assert left[0] == left[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_for_rtx_builds_it(called, precision):
    """For a GPU that this machine need not have; every call gets its own sizes."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(called[precision].SerializeToString()), parser.get_error(0)
    convolutions = [network.get_layer(i) for i in range(network.num_layers)]
    strides = [layer.get_output(0).shape[2:] for layer in convolutions if "filtered" in layer.name]
    assert [tuple(shape) for shape in strides] == [(4, 4), (4, 4), (4, 4)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("pixels", (1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_calls_that_one_body_cannot_serve_are_refused(called):
    model = onnx.ModelProto()
    for groups in (2, 4):
        call = helper.make_node("DepthwiseBlock", ["x"], ["y"], domain=DOMAIN, channels=4, groups=groups)
        model.graph.node.append(call)
    with pytest.raises(OvsdinoError, match=r"DepthwiseBlock: called with .*'groups': 2.*'groups': 4"):
        define_functions(model)


def test_inline_writes_no_function(tiny, tmp_path):
    export_vision(tiny, tmp_path, plans={"fp32": ()}, report=lambda _: None, inline=True)
    model = onnx.load(tmp_path / "vision.onnx")
    assert not model.functions
    assert {opset.domain for opset in model.opset_import} == {""}


def test_weights_are_shared_by_both_precisions(called, pixels, tmp_path):
    models = {"vision.onnx": called["fp32"], "vision.fp16.onnx": called["fp16"]}
    copies = {name: onnx.ModelProto.FromString(model.SerializeToString()) for name, model in models.items()}
    store_as_half(copies["vision.onnx"])
    save_sharing_weights(copies, tmp_path, "vision.data")
    for name, model in models.items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(tmp_path / name, options)  # reads vision.data beside it
        (features,) = session.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_array_equal(features, run(model, pixels))


def call_of(body, kind=TensorProto.FLOAT16):
    """A graph that calls a function `F` of one input with the given body."""
    function = helper.make_function(DOMAIN, "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [helper.make_node("F", ["x"], ["y"], name="call", domain=DOMAIN)],
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function])


def findings(model):
    return [str(finding) for finding in lint(model, precision="fp16", dynamic=("batch",))]


def test_bodies_are_linted_with_the_types_of_the_call():
    assert not findings(call_of([helper.make_node("Relu", ["a"], ["b"])]))
    softmax = call_of([helper.make_node("Softmax", ["a"], ["b"])])
    assert findings(softmax) == ["Softmax in F call: x is float16; Softmax must compute in float32"]
    (finding,) = findings(call_of([helper.make_node("NonZero", ["a"], ["b"])]))
    assert finding.startswith("NonZero in F call: NonZero is read differently")


def test_a_call_without_its_function_is_refused():
    model = call_of([helper.make_node("Relu", ["a"], ["b"])])
    del model.functions[:]
    assert findings(model) == [
        "opset ovsdino: unknown domain; engines know only standard operators",
        "F call: unknown domain 'ovsdino'; engines know only standard operators",
    ]
