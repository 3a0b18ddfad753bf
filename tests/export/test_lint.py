"""Every rule refuses a graph made by hand that breaks it, and names the node."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.graphs.lint import SCOPES, LintError, check, lint, lint_function_names
from ovsdino_export.pipeline import shipped_vision
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle


def graph_of(*nodes, kind=TensorProto.FLOAT, shape=("batch", 3, 8, 8), inner=(), opsets=(("", 18),)):
    """A graph of one input x and one output y around the given nodes; `inner` are values as (name, type)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        value_info=[helper.make_tensor_value_info(name, some, shape) for name, some in inner],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets])


def findings(model, precision="fp32"):
    return [str(finding) for finding in lint(model, precision=precision, dynamic=("batch",))]


def test_a_local_function_shares_no_name_with_the_graph():
    body = [helper.make_node("Relu", ["inner"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["out"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("ovsdino", "Twice", ["inner"], ["out"], body, opsets)
    nodes = helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Twice", ["h"], ["y"], domain="ovsdino")
    model = graph_of(*nodes, inner=[("h", TensorProto.FLOAT)], opsets=(("", 18), ("ovsdino", 1)))
    model.functions.append(function)
    assert not [found for found in findings(model) if "rename" in found]
    model.functions[0].node[0].output[0] = model.functions[0].node[1].input[0] = "h"
    assert [found for found in findings(model) if "rename" in found] == [
        "Twice h: a tensor of the graph has this name too; rename it"
    ]


@pytest.mark.parametrize("graph", ["vision", "text"])
def test_the_packaged_graphs_share_no_name_with_their_functions(graph):
    bundle = load_bundle(find_bundle("nano"))
    model = onnx.load(bundle.file(bundle.manifest.graphs[graph].file), load_external_data=False)
    assert not list(lint_function_names(model))
    assert bool(model.functions) == (graph == "vision")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_exported_graphs_share_no_name_with_their_functions(tiny, precision):
    pipeline = shipped_vision(tiny, precision)
    model = export_graph(pipeline, torch.zeros(2, 3, 64, 64), VISION, precision=precision)
    names = {function.name for function in model.functions}
    assert names == {"DepthwiseBlock", "DepthwiseBlockStride2", "PreservationGate", "MultiHeadAttention"}
    assert not list(lint_function_names(model))


def test_a_clean_graph_passes():
    model = graph_of(helper.make_node("Relu", ["x"], ["y"]))
    check(model, precision="fp32", dynamic=("batch",))


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "Range", "GridSample"])
def test_operators_that_engines_read_differently_are_refused(operator):
    (finding,) = findings(graph_of(helper.make_node(operator, ["x"], ["y"], name="node_7")))
    assert finding.startswith(f"{operator} node_7: {operator} is read differently")


def test_the_module_that_a_node_came_from_is_named():
    node = helper.make_node("Range", ["x"], ["y"], name="arange")
    node.metadata_props.append(
        onnx.StringStringEntryProto(key=SCOPES, value="['', 'tower', 'tower.pool', 'arange']")
    )
    assert findings(graph_of(node))[0].startswith("Range arange (from tower.pool): ")


def test_an_unknown_domain_is_refused():
    node = helper.make_node("Gate", ["x"], ["y"], name="gate", domain="elsewhere")
    assert findings(graph_of(node, opsets=(("", 18), ("elsewhere", 1)))) == [
        "opset elsewhere: unknown domain; engines know only standard operators",
        "Gate gate: unknown domain 'elsewhere'; engines know only standard operators",
    ]


def test_float64_is_refused_wherever_it_is():
    nodes = [
        helper.make_node("Cast", ["x"], ["z"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["z"], ["y"], to=1),
    ]
    assert findings(graph_of(*nodes, inner=[("z", TensorProto.DOUBLE)])) == [
        "value z: float64, which TensorRT does not know; compute it in float32"
    ]


@pytest.mark.parametrize("side", ["height", "2*height", "Min(48, height)"])
def test_a_side_that_varies_is_refused(side):
    relu = helper.make_node("Relu", ["x"], ["y"])
    found = findings(graph_of(relu, shape=("batch", 3, side, 8)))
    assert found == [f"value {name}: axis 2 is dynamic ({side}); only batch may vary" for name in ("x", "y")]


def test_what_depends_on_a_named_axis_alone_passes():
    assert not findings(graph_of(helper.make_node("Relu", ["x"], ["y"]), shape=("Max(2, 4*batch)", 3, 8, 8)))


@pytest.mark.parametrize("operator", ["LayerNormalization", "InstanceNormalization", "Softmax", "ReduceL2"])
def test_statistics_in_fp16_are_refused(operator):
    model = graph_of(helper.make_node(operator, ["x"], ["y"], name="n"), kind=TensorProto.FLOAT16)
    assert findings(model, "fp16") == [f"{operator} n: x is float16; {operator} must compute in float32"]


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Conv"])
@pytest.mark.parametrize(("precision", "kind"), [("fp16", "float32"), ("fp32", "float16")])
def test_a_product_of_another_precision_is_refused(operator, precision, kind):
    stored = TensorProto.FLOAT if kind == "float32" else TensorProto.FLOAT16
    model = graph_of(helper.make_node(operator, ["x", "x"], ["y"], name="n"), kind=stored)
    assert findings(model, precision) == [
        f"{operator} n: x is {kind} in a graph that was asked for in {precision.upper()}"
    ]


def test_only_the_first_findings_are_shown():
    chain = [helper.make_node("If", [f"v{i}"], [f"v{i + 1}"], name=str(i)) for i in range(7)]
    with pytest.raises(LintError, match=r"If 0: .*; If 4: .*; and 2 more$"):
        check(graph_of(*chain), precision="fp32", dynamic=("batch",))
