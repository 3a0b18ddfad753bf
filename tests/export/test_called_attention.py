"""Attention as one call: ONNX Runtime's kernel and the body give the model's numbers; RTX has one layer."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import inliner

from ovsdino_export.engines.inspect import network_layers
from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.graphs.local_functions import call_functions
from ovsdino_export.parity import onnx_encoder
from ovsdino_export.pipeline import VisionPipeline, shipped_vision
from ovsdino_export.rewrite.called_attention import DOMAIN, call_attention, define_attention, keep_calls
from ovsdino_export.rewrite.half_precision import ATTENTION
from ovsdino_runtime.base.errors import OvsdinoError


@pytest.fixture(scope="module")
def called(tiny, pixels):
    pipeline = call_functions(call_attention(VisionPipeline(tiny)))
    return export_graph(pipeline, pixels[:2], VISION)


def encode(model, pixels, folder):
    file = folder / "graph.onnx"
    onnx.save(model, file)
    return onnx_encoder(file, VISION)(pixels.numpy())


def test_the_call_gives_the_numbers_of_the_written_out_attention(called, graphs, pixels, tmp_path):
    assert sum(node.domain == DOMAIN for node in called.graph.node) == 6  # one a block
    assert not any(node.op_type == "Softmax" for node in called.graph.node)
    one, other = encode(called, pixels, tmp_path), encode(graphs["fp32"], pixels, tmp_path)
    assert np.abs(one - other).max() < 1e-5  # unit vectors of 24 values; the sums are in another order


def test_the_body_is_standard_and_gives_the_same(called, graphs, pixels, tmp_path):
    plain = inliner.inline_local_functions(called)
    assert {node.domain for node in plain.graph.node} == {""}
    one, other = encode(plain, pixels, tmp_path), encode(graphs["fp32"], pixels, tmp_path)
    assert np.abs(one - other).max() < 1e-6


def test_onnx_runtime_takes_its_own_kernel_and_not_the_body(called, pixels, tmp_path):
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(called)
    (function,) = [function for function in spoiled.functions if function.domain == DOMAIN]
    for node in function.node:
        if node.op_type == "Softmax":
            node.op_type = "Relu"
            del node.attribute[:]
    one, other = encode(spoiled, pixels, tmp_path), encode(called, pixels, tmp_path)
    assert np.array_equal(one, other)


@pytest.fixture(scope="module")
def half(tiny, pixels):
    """Graphs as they ship, by precision."""
    return {
        precision: export_graph(shipped_vision(tiny, precision), pixels[:2], VISION, precision=precision)
        for precision in ("fp16", "bf16")
    }


def test_in_fp16_the_body_has_a_softmax_of_fp32(half, graphs, pixels, tmp_path):
    """ONNX Runtime has no FP16 kernel on a CPU and takes the body."""
    calls = [node for node in half["fp16"].graph.node if node.domain == DOMAIN]
    assert len(calls) == 6
    one, other = encode(half["fp16"], pixels, tmp_path), encode(graphs["fp16"], pixels, tmp_path)
    assert (one * other).sum(1).min() > 0.99999  # cosines of unit vectors; roundings of FP16 differ


def test_an_attention_that_stays_in_fp32_is_written_out(tiny, pixels):
    pipeline = shipped_vision(tiny, "fp16", fp32=(ATTENTION,))
    graph = export_graph(pipeline, pixels[:2], VISION, precision="fp16", fp32=(ATTENTION,))
    assert sum(node.op_type == "Softmax" for node in graph.graph.node) == 6
    assert not any(node.domain == DOMAIN for node in graph.graph.node)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_for_rtx_imports_one_attention_a_block(half, tiny, pixels, precision):
    """Fewer layers than written out, none of them a softmax; an engine for two kinds of GPU builds."""
    trt = pytest.importorskip("tensorrt_rtx")
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < (1, 7):
        pytest.skip("it takes the body")
    written = call_functions(VisionPipeline(tiny, precision))
    plain = export_graph(written, pixels[:2], VISION, precision=precision)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    counts = []
    for graph in (half[precision], plain):
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(graph.SerializeToString()), parser.get_error(0)
        counts.append(Counter(f"{layer.kind} {layer.dtype}" for layer in network_layers(network)))
        if graph is plain:
            break
        config = builder.create_builder_config()
        config.num_compute_capabilities = 2
        for index, name in enumerate(("SM86", "SM89")):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        profile = builder.create_optimization_profile()
        profile.set_shape("pixels", (1, 3, 64, 64), (4, 3, 64, 64), (4, 3, 64, 64))
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None
    called, written_out = counts
    dtype = {"fp16": "HALF", "bf16": "BF16"}[precision]
    assert called[f"ATTENTION_INPUT {dtype}"] == written_out["SOFTMAX FLOAT"] == 6
    assert called["SOFTMAX FLOAT"] == 0
    assert called[f"MATRIX_MULTIPLY {dtype}"] == written_out[f"MATRIX_MULTIPLY {dtype}"] - 12
    assert called.total() < written_out.total()


def test_kept_calls_have_no_function(called, pixels, tmp_path):
    kept = keep_calls(called)
    assert not kept.functions
    assert {node.domain for node in kept.graph.node} == {"", DOMAIN}
    assert np.array_equal(encode(kept, pixels, tmp_path), encode(called, pixels, tmp_path))


def test_attentions_of_two_forms_are_refused(called):
    other = onnx.ModelProto()
    other.CopyFrom(called)
    call = next(node for node in other.graph.node if node.domain == DOMAIN)
    for attribute in call.attribute:
        if attribute.name == "num_heads":
            attribute.i += 1
    with pytest.raises(OvsdinoError, match=r"attentions of 2 forms.*--inline"):
        define_attention(other)
