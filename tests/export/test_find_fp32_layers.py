"""What stays in FP32: found by rungs and by bisection, written into the graph, and checked there."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from onnx import TensorProto

from ovsdino.network.head import unit
from ovsdino_export import parity
from ovsdino_export.graphs.graph import VISION, describe_graph, export_graph
from ovsdino_export.graphs.lint import LintError, check, element_types, is_kept
from ovsdino_export.pipeline import VisionPipeline
from ovsdino_export.precision import find_fp32_layers as ladder
from ovsdino_export.precision.find_fp32_layers import find_fp32_layers, smallest, units
from ovsdino_export.rewrite.explicit_attention import ExplicitAttention
from ovsdino_export.rewrite.half_precision import ATTENTION, Float32Part


@pytest.mark.parametrize("needed", [[], ["c"], ["a", "h"], ["b", "c", "g"], list("abcdefgh")])
def test_bisection_finds_what_is_needed_and_no_more(needed):
    tries = []

    def passes(kept):
        tries.append(kept)
        return set(needed) <= set(kept)

    found = smallest(list("abcdefgh"), passes)
    if needed:  # nothing needed never comes here: the first rung would have passed
        assert found == needed
    assert len(tries) <= 2 + 2 * max(len(needed), 1) * 4
    assert smallest(["a", "b"], lambda _: False) == ["a", "b"]


def test_the_units_are_blocks_and_what_is_outside_them(tiny):
    names = units(tiny)
    assert "backbone.vit.blocks.0" in names
    assert "projector" in names
    assert not any(name.startswith("backbone.vit.blocks.0.") for name in names)


@pytest.fixture(scope="module")
def reference(tiny, pixels):
    bank = torch.randn(30, 24, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return {"expected": unit(tiny(pixels)).numpy(), "bank": unit(bank).numpy()}


def climbed(tiny, pixels, reference, monkeypatch, enough):
    """Climb with a measurement that passes once `enough` says so; and the reports."""
    kept, reports = [], []
    monkeypatch.setattr(ladder, "VisionPipeline", lambda *_, fp32: kept.append(tuple(fp32)) or fp32)
    monkeypatch.setattr(parity, "torch_encoder", lambda pipeline: pipeline)
    monkeypatch.setattr(parity, "in_batches", lambda *_: None)
    monkeypatch.setattr(parity, "compare", lambda *_, **__: kept[-1])
    monkeypatch.setattr(parity, "misses", lambda figure: [] if enough(figure) else ["cosine"])
    return find_fp32_layers(tiny, "fp16", pixels.numpy(), **reference, report=reports.append), reports


def test_the_cheapest_rung_that_passes_is_taken(tiny, pixels, reference, monkeypatch):
    assert climbed(tiny, pixels, reference, monkeypatch, lambda _: True) == ((), [])
    found, reports = climbed(tiny, pixels, reference, monkeypatch, lambda kept: ATTENTION in kept)
    assert found == (ATTENTION,)
    assert reports[-1] == "fp16 needs the attention in FP32"
    block = "backbone.vit.blocks.3"
    found, reports = climbed(tiny, pixels, reference, monkeypatch, lambda kept: block in kept)
    assert found == (block,)
    assert reports[-1] == f"fp16 needs FP32 in {block}"


def test_a_layer_that_overflows_is_found(tiny, pixels, reference):
    """Values beyond 65504 inside one block, scaled back behind it: nothing in FP32, but not in FP16."""
    model = deepcopy(tiny)
    mlp = model.backbone.vit.blocks[2].mlp
    with torch.no_grad():
        mlp.fc1.weight *= 2e5
        mlp.fc1.bias *= 2e5
        mlp.fc2.weight /= 2e5
    with torch.inference_mode():
        expected = unit(model(pixels)).numpy()
    reports = []
    bank = reference["bank"]
    kept = find_fp32_layers(
        model, "fp16", pixels.numpy(), expected=expected, bank=bank, report=reports.append
    )
    assert kept == ("backbone.vit.blocks.2",)
    assert reports[0] == "fp16 misses its thresholds; trying the attention in FP32"


@torch.no_grad()
@pytest.mark.parametrize("fp32", [(ATTENTION,), ("backbone.vit.blocks.2", "projector")])
def test_what_is_kept_is_in_fp32_in_the_graph_and_nothing_else(tiny, pixels, fp32):
    pipeline = VisionPipeline(tiny, "fp16", fp32=fp32)
    attentions = [module for module in pipeline.modules() if isinstance(module, ExplicitAttention)]
    assert {attention.wide for attention in attentions} == {ATTENTION in fp32}
    assert sum(isinstance(module, Float32Part) for module in pipeline.modules()) == len({*fp32} - {ATTENTION})
    assert (pipeline(pixels) * unit(tiny(pixels))).sum(1).min() > 0.9995
    graph = export_graph(pipeline, torch.zeros(2, 3, 64, 64), VISION, precision="fp16", fp32=fp32)
    assert describe_graph(graph, "x", precision="fp16", fp32=fp32).fp32 == fp32
    types = element_types(graph)
    found = {
        types.get(node.input[0]) for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")
    }
    assert found == {TensorProto.FLOAT, TensorProto.FLOAT16}
    with pytest.raises(LintError, match="is float32 in a graph that was asked for in FP16"):
        check(graph, precision="fp16", dynamic=["batch"])


def test_kept_layers_are_recognised_by_name():
    assert is_kept("network.backbone.vit.blocks.1.part.mlp.fc1", ["backbone.vit.blocks.1"])
    assert not is_kept("network.backbone.vit.blocks.11.mlp.fc1", ["backbone.vit.blocks.1"])
    assert is_kept("network.backbone.vit.blocks.1.attn", [ATTENTION])
    assert not is_kept("network.backbone.vit.blocks.1.attn.qkv", [ATTENTION])


def test_bf16_is_typed_in_the_graph(tiny):
    graph = export_graph(VisionPipeline(tiny, "bf16"), torch.zeros(2, 3, 64, 64), VISION, precision="bf16")
    types = element_types(graph)
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert {types.get(node.input[0]) for node in products} == {TensorProto.BFLOAT16}
    assert TensorProto.FLOAT16 not in types.values()


def test_the_thresholds_are_those_of_the_precision(tiny, pixels, reference, monkeypatch):
    impossible = replace(parity.THRESHOLDS["vision.bf16"], cosine_mean=1.1)
    monkeypatch.setitem(parity.THRESHOLDS, "vision.bf16", impossible)
    monkeypatch.setattr(ladder, "units", lambda _: ["projector"])
    assert find_fp32_layers(tiny, "fp16", pixels.numpy(), **reference) == ()
    assert find_fp32_layers(tiny, "bf16", pixels.numpy(), **reference) == ("projector",)
