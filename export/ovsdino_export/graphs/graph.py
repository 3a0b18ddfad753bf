"""Export a pipeline to a checked ONNX graph without paths of the exporting machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from ovsdino import __version__
from ovsdino_export.graphs import lint, local_functions
from ovsdino_export.graphs.storage import LARGEST, weight_bytes
from ovsdino_export.rewrite import called_attention
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle import bundle

OPSET = 18  # what TensorRT 10.3 parses, with LayerNormalization as one operator
SDPA = "scaled_dot_product_attention"


@dataclass(frozen=True)
class GraphSpec:
    """Names of a graph's inputs, their dynamic axes, and its outputs."""

    inputs: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]

    @property
    def input(self) -> str:
        """The first input."""
        return next(iter(self.inputs))

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    @property
    def dynamic(self) -> set[str]:
        """The names of all axes that vary."""
        return {name for axes in self.inputs.values() for name in axes.values()}


VISION = GraphSpec({"pixels": {0: "batch"}}, ("features",))
TEXT = GraphSpec({"ids": {0: "batch", 1: "tokens"}}, ("embeddings",))
PROJECTION = GraphSpec({"means": {0: "classes"}}, ("embeddings",))


def export_graph(
    pipeline: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    spec: GraphSpec,
    *,
    precision: bundle.Precision = "fp32",
    fp32: Collection[str] = (),
) -> onnx.ModelProto:
    """Export a pipeline and check the result.

    Args:
        pipeline: takes the inputs of ``spec`` in order and returns its outputs.
        example: the input or inputs. Each dynamic axis must be at least 2: torch treats 1 as a constant.
        spec: names and dynamic axes.
        precision: precision of the pipeline's products.
        fp32: layers that stay in FP32, as in `ovsdino_export.rewrite.half_precision.to_half`.

    Returns:
        The graph with its weights inside.

    Raises:
        LintError: the graph contains an operator that engines compute wrongly.
        OvsdinoError: an attention was not written out.
    """
    dims = {name: torch.export.Dim(name) for name in sorted(spec.dynamic)}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in spec.inputs.values())
    program = torch.onnx.export(
        pipeline.eval(),
        example if isinstance(example, tuple) else (example,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=shapes,
        input_names=list(spec.inputs),
        output_names=list(spec.outputs),
        verbose=False,
    )
    assert program is not None
    assert program.exported_program is not None
    refuse_fused_attention(program.exported_program)
    model: onnx.ModelProto = program.model_proto
    local_functions.define_functions(model)
    called_attention.define_attention(model)
    lint.check(model, precision=precision, dynamic=spec.dynamic, fp32=fp32)
    strip(model)
    if weight_bytes(model) < LARGEST:
        onnx.checker.check_model(model)  # of a larger one, `storage.WeightFile` checks the file
    return model


def refuse_fused_attention(program: torch.export.ExportedProgram) -> None:
    """Reject a fused attention that `ovsdino_export.rewrite.rewrite` did not write out.

    Raises:
        OvsdinoError: the program contains one; the message names its module.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and SDPA in str(node.target):
            modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            raise OvsdinoError(
                f"{modules[-1] if modules else node.name}: {SDPA} must be written out before export"
            )


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces with their paths, and the exporter's metadata."""
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    model.producer_name, model.producer_version = "ovsdino_export", __version__


def describe_graph(
    model: onnx.ModelProto, file: str, *, precision: bundle.Precision, fp32: Collection[str] = ()
) -> bundle.Graph:
    """Describe a graph's inputs and outputs for the manifest."""
    return bundle.Graph(
        file=file,
        precision=precision,
        inputs=tuple(_describe_value(value) for value in model.graph.input),
        outputs=tuple(_describe_value(value) for value in model.graph.output),
        fp32=tuple(fp32),
    )


def _describe_value(value: onnx.ValueInfoProto) -> bundle.Tensor:
    kind = value.type.tensor_type
    shape = tuple(dimension.dim_param or dimension.dim_value for dimension in kind.shape.dim)
    return bundle.Tensor(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
