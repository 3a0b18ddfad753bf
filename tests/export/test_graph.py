"""The exported graphs: torch's numbers at untraced sizes, the right types, nothing of this machine."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto

from ovsdino.network.head import unit
from ovsdino_export.graphs.graph import TEXT, VISION, describe_graph, export_graph
from ovsdino_export.graphs.lint import PRODUCTS, STATISTICS, LintError, element_types
from ovsdino_export.pipeline import TextPipeline, VisionPipeline
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import Tensor

CLOSE = {"rtol": 0, "atol": 2e-6}  # unit vectors; a few roundings of FP32


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)[0]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_the_vision_graph_gives_the_models_features_at_any_batch(tiny, graphs, pixels, batch):
    got = run(graphs["fp32"], pixels=pixels[:batch].numpy())
    np.testing.assert_allclose(got, unit(tiny(pixels[:batch])).numpy(), **CLOSE)


@torch.no_grad()
def test_the_fp16_graph_is_close(tiny, graphs, pixels):
    got = run(graphs["fp16"], pixels=pixels.numpy())
    assert got.dtype == np.float32
    assert (got * unit(tiny(pixels)).numpy()).sum(1).min() > 0.9995


def test_inputs_and_outputs_are_the_contract(graphs):
    for precision, graph in graphs.items():
        described = describe_graph(graph, "vision.onnx", precision=precision)
        assert described.inputs == (Tensor("pixels", "float32", ("batch", 3, 64, 64)),)
        assert described.outputs == (Tensor("features", "float32", ("batch", 24, 4, 4)),)


def test_types_are_written_into_the_fp16_graph(graphs):
    types = element_types(graphs["fp16"])
    counts: Counter[str] = Counter()
    for node in graphs["fp16"].graph.node:
        floats = {types[n] for n in node.input if types.get(n) in (TensorProto.FLOAT, TensorProto.FLOAT16)}
        if node.op_type in PRODUCTS:
            assert floats == {TensorProto.FLOAT16}, node.name
        if node.op_type in STATISTICS:
            assert floats == {TensorProto.FLOAT}, node.name
        counts[node.op_type] += 1
    assert counts["MatMul"] == 6 * 6  # qkv, q k, weights v, output, two of the MLP
    assert counts["Softmax"] == 6
    assert counts["LayerNormalization"] == 6 * 2 + 1  # blocks; the last tap and the output share one
    assert counts["InstanceNormalization"] == 3 + 2 + 1 + 2  # taps, refine, SMD, gate
    assert counts["ReduceL2"] == 1


def test_the_graphs_hold_nothing_of_this_machine(graphs):
    for graph in graphs.values():
        data = graph.SerializeToString()
        for trace in (
            str(Path(__file__).parents[2]),
            str(Path(torch.__file__).parents[2]),
            ".py",
            "stack_trace",
        ):
            assert trace.encode() not in data
        assert graph.opset_import[0].version == 18
        assert graph.producer_name == "ovsdino_export"


def test_an_export_is_reproducible(tiny, graphs):
    again = export_graph(VisionPipeline(tiny), torch.zeros(2, 3, 64, 64), VISION)
    assert again.SerializeToString(deterministic=True) == graphs["fp32"].SerializeToString(deterministic=True)


@torch.no_grad()
def test_the_text_graph_gives_the_towers_embeddings_at_any_length(tower):
    ids = torch.tensor([[2, 3, 4, 5, 0, 0], [6, 7, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    graph = export_graph(TextPipeline(tower), ids[:2, :5], TEXT)
    described = describe_graph(graph, "text.onnx", precision="fp32")
    assert described.inputs == (Tensor("ids", "int64", ("batch", "tokens")),)
    assert described.outputs == (Tensor("embeddings", "float32", ("batch", 24)),)
    for some in (ids, ids[:1], ids[:, :1], torch.randint(2, 50, (5, 12))):
        np.testing.assert_allclose(run(graph, ids=some.numpy()), tower(some).numpy(), **CLOSE)
    longer = F.pad(ids, (0, 4))
    np.testing.assert_allclose(
        run(graph, ids=longer.numpy()), tower(ids).numpy(), **CLOSE
    )  # padding changes nothing


class Fused(torch.nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Fused()

    def forward(self, x):
        return self.block(x)


def test_an_attention_left_to_the_exporter_is_refused_with_its_module():
    with pytest.raises(OvsdinoError, match="block: scaled_dot_product_attention must be written out"):
        export_graph(Outer(), torch.randn(2, 4, 4, 8), VISION)


class Warping(torch.nn.Module):
    def forward(self, x):
        return F.grid_sample(x, torch.zeros(x.shape[0], 4, 4, 2), align_corners=False)


def test_a_forbidden_operator_is_refused_on_export():
    with pytest.raises(LintError, match="GridSample"):
        export_graph(Warping(), torch.randn(2, 3, 4, 4), VISION)
