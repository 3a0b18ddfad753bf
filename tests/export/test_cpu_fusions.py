"""Attention as one call: the kernel of ONNX Runtime and the body give the model's numbers."""

import numpy as np
import onnx
import pytest
from onnx import inliner

from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.graphs.local_functions import call_functions
from ovsdino_export.parity import onnx_encoder
from ovsdino_export.pipeline import VisionPipeline
from ovsdino_export.rewrite.cpu_fusions import DOMAIN, call_attention, define_attention, keep_calls
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
