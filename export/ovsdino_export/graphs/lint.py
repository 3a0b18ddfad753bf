"""Lint graphs: reject operators that engines compute differently.

Each rule stands for a reported fault: control flow and Range (TensorRT 10.3's parser), GridSample (wrong
    since
10.13), dynamic sides (wrong in 10.3), float64 (not in TensorRT), norms in FP16 (overflow).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, inliner

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.options import Precision

FORBIDDEN = {"If", "Loop", "Scan", "Range", "GridSample", "NonZero", "SequenceAt"}
DOMAINS = {"", "ai.onnx"}
FUNCTIONS = {"ovsdino", "com.microsoft"}  # domains of local functions, allowed where the model defines them
PRODUCTS = {"MatMul", "Gemm", "Conv"}  # FP16 where the graph is FP16
STATISTICS = {"LayerNormalization", "InstanceNormalization", "Softmax", "ReduceL2"}  # always FP32
HALF: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
MAX_SHOWN = 5
SYMBOL = r"\b[A-Za-z_]\w*\b(?!\()"  # a name in a dimension such as "Min(48, tokens)", without the function's
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter says which module a node came from


class LintError(OvsdinoError):
    """A graph contains an operator that engines are known to compute wrongly."""


@dataclass(frozen=True)
class LintFinding:
    """A fault of a graph: the node, the module from which it was exported ("" if unknown), and the reason."""

    node: str
    module: str
    why: str

    def __str__(self) -> str:
        """Return node, module and fault in one line."""
        return f"{self.node}{f' (from {self.module})' if self.module else ''}: {self.why}"


def check(
    model: onnx.ModelProto, *, precision: Precision, dynamic: Iterable[str], fp32: Collection[str] = ()
) -> None:
    """Reject a graph that breaks a rule.

    Args:
        model: the graph with shapes and types of its values, as the exporter writes them.
        precision: required precision of its products.
        dynamic: allowed names of dimensions. Every other dimension must be a number.
        fp32: layers whose products must be FP32 regardless; "attention" for those in attentions.

    Raises:
        LintError: the graph breaks a rule. The message names nodes and modules.
    """
    findings = list(lint(model, precision=precision, dynamic=dynamic, fp32=fp32))
    if findings:
        shown = "; ".join(str(finding) for finding in findings[:MAX_SHOWN])
        more = f"; and {len(findings) - MAX_SHOWN} more" if len(findings) > MAX_SHOWN else ""
        raise LintError(f"the graph would not run alike on every engine: {shown}{more}")


def lint(
    model: onnx.ModelProto, *, precision: Precision, dynamic: Iterable[str], fp32: Collection[str] = ()
) -> Iterator[LintFinding]:
    """Yield all faults of a graph. The arguments are those of `check`."""
    types = element_types(model)
    allowed = set(dynamic)
    functions = {(function.domain, function.name) for function in model.functions}
    yield from lint_function_names(model)
    domains = DOMAINS | (FUNCTIONS & {domain for domain, _ in functions})
    for opset in model.opset_import:
        if opset.domain not in domains:
            yield LintFinding(
                f"opset {opset.domain}", "", "unknown domain; engines know only standard operators"
            )
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        yield from _lint_dimensions(value, allowed)
    for name, kind in types.items():
        if kind == TensorProto.DOUBLE:
            yield LintFinding(
                f"value {name}", "", "float64, which TensorRT does not know; compute it in float32"
            )
    for node in model.graph.node:
        own: Precision = "fp32" if is_kept(module_of(node), fp32) else precision
        if node.domain in FUNCTIONS and (node.domain, node.op_type) in functions:
            yield from _lint_call(node, model, types=types, precision=own)
            continue
        for why in _faults(node, types, own):
            yield LintFinding(f"{node.op_type} {node.name}".strip(), module_of(node), why)


def lint_function_names(model: onnx.ModelProto) -> Iterator[LintFinding]:
    """Yield names inside local functions that a tensor of the graph has as well.

    The parser of TensorRT 10.1 to 10.7 keeps inner and outer tensors in one table and confuses them.
    """
    graph = model.graph
    outer = {value.name for value in (*graph.input, *graph.initializer)}
    outer |= {name for node in graph.node for name in node.output}
    for function in model.functions:
        inner = {*function.input, *(name for node in function.node for name in node.output)}
        for name in sorted(inner & outer - {""}):
            yield LintFinding(
                f"{function.name} {name}",
                "",
                "a tensor of the graph has this name too; rename it",
            )


def _lint_call(
    call: onnx.NodeProto, model: onnx.ModelProto, *, types: dict[str, int], precision: Precision
) -> Iterator[LintFinding]:
    """Yield the faults of a function's body, for the types of one call."""
    inputs = [onnx.helper.make_tensor_value_info(name, types[name], None) for name in call.input]
    graph = onnx.helper.make_graph(
        [call], "call", inputs, [onnx.ValueInfoProto(name=name) for name in call.output]
    )
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    inlined = onnx.shape_inference.infer_shapes(inliner.inline_local_functions(alone))
    inner = element_types(inlined)
    for name, kind in inner.items():
        if kind == TensorProto.DOUBLE:
            yield LintFinding(f"value {name} in {call.op_type}", module_of(call), "float64; use float32")
    for node in inlined.graph.node:
        for why in _faults(node, inner, precision):
            yield LintFinding(f"{node.op_type} in {call.op_type} {call.name}".strip(), module_of(call), why)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value for which the graph states one."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    stated = {value.name: value.type.tensor_type.elem_type for value in values}
    return stated | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def module_of(node: onnx.NodeProto) -> str:
    """Return the dotted name of the module from which a node was exported; "" if it is not recorded."""
    recorded = {entry.key: entry.value for entry in node.metadata_props}.get(SCOPES)
    scopes = [scope for scope in ast.literal_eval(recorded) if scope] if recorded else []
    return scopes[-2] if len(scopes) > 1 else ""  # the last one is the operation itself


def is_kept(module: str, fp32: Collection[str]) -> bool:
    """Tell whether a module, or a module that contains it, stays in FP32."""
    own = module.rpartition(".")[2] in ("attn", "attention")
    return ("attention" in fp32 and own) or any(f".{name}." in f".{module}." for name in fp32)


def _lint_dimensions(value: onnx.ValueInfoProto, allowed: set[str]) -> Iterator[LintFinding]:
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        unknown = set(re.findall(SYMBOL, dimension.dim_param)) - allowed
        if unknown:
            expected = f"only {', '.join(sorted(allowed))} may vary" if allowed else "no axis may vary"
            yield LintFinding(
                f"value {value.name}", "", f"axis {axis} is dynamic ({dimension.dim_param}); {expected}"
            )


def _faults(node: onnx.NodeProto, types: dict[str, int], precision: Precision) -> Iterator[str]:
    if node.op_type in FORBIDDEN:
        yield f"{node.op_type} is read differently, or not at all, by some engines; export a constant instead"
    if node.domain not in DOMAINS:
        yield f"unknown domain {node.domain!r}; engines know only standard operators"
    half = [name for name in node.input if types.get(name) in HALF]
    single = [name for name in node.input if types.get(name) == TensorProto.FLOAT]
    if node.op_type in STATISTICS and half:
        yield f"{half[0]} is {HALF[types[half[0]]]}; {node.op_type} must compute in float32"
    if node.op_type in PRODUCTS and precision in ("fp16", "bf16") and single:
        yield f"{single[0]} is float32 in a graph that was asked for in {precision.upper()}"
    if node.op_type in PRODUCTS and precision == "fp32" and half:
        yield f"{half[0]} is {HALF[types[half[0]]]} in a graph that was asked for in FP32"
