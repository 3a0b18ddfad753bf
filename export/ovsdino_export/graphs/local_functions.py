"""Fused operators in a graph: calls of local functions whose bodies are standard operators.

ONNX Runtime and TensorRT for RTX inline the bodies. TensorRT uses a registered plugin of the same name
instead (`ovsdino_export.engines.plugin`), and so runs the fused kernel.
"""

from __future__ import annotations

from typing import TypeVar, cast

import onnx
import torch
from onnx import parser
from torch import Tensor, nn

from ovsdino.network.structure_decoder import PreservationGate
from ovsdino.network.structure_encoder import DepthwiseBlock
from ovsdino_export.rewrite.half_precision import Float32Norm
from ovsdino_runtime.base.errors import OvsdinoError

Model = TypeVar("Model", bound=nn.Module)

DOMAIN = "ovsdino"
VERSION = 1
# As torch exports the parts, so that the numbers stay the same; the norm is FP32 in every graph. Numbers
# stand in the body, for TensorRT for RTX 1.7.1 gives a second call the attributes of the first: hence a
# function for each stride.
DEPTHWISE_BLOCK = """
    <opset_import: ["" : 18], domain: "ovsdino">
    {name} (x, weight, gamma, beta) => (y) {{
        filtered = Conv <group = {channels}, strides = [{stride}, {stride}],
                         kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, weight)
        wide = Cast <to = 1> (filtered)
        split = Constant <value_ints = [0, {groups}, -1]> ()
        grouped = Reshape (wide, split)
        size = Constant <value_ints = [{groups}]> ()
        ones = ConstantOfShape <value = float[1] {{1.0}}> (size)
        zeros = ConstantOfShape <value = float[1] {{0.0}}> (size)
        standard = InstanceNormalization <epsilon = 0.00001> (grouped, ones, zeros)
        shape = Shape (wide)
        ungrouped = Reshape (standard, shape)
        sides = Constant <value_ints = [1, 2]> ()
        slope = Unsqueeze (gamma, sides)
        shift = Unsqueeze (beta, sides)
        sloped = Mul (ungrouped, slope)
        shifted = Add (sloped, shift)
        normal = CastLike (shifted, filtered)
        root_float = Constant <value_float = 1.4142135381698608> ()
        root = CastLike (root_float, filtered)
        one_float = Constant <value_float = 1.0> ()
        one = CastLike (one_float, filtered)
        half_float = Constant <value_float = 0.5> ()
        half = CastLike (half_float, filtered)
        scaled = Div (normal, root)
        error = Erf (scaled)
        raised = Add (error, one)
        halved = Mul (half, raised)
        y = Mul (normal, halved)
    }}
"""
PRESERVATION_GATE = """
    <opset_import: ["" : 18], domain: "ovsdino">
    {name} (x, modulation, residual, alpha) => (y) {{
        r = Add (modulation, residual)
        gate = Sigmoid (r)
        strength = Mul (alpha, x)
        change = Mul (strength, gate)
        y = Add (x, change)
    }}
"""
DEPTHWISE_NAMES = {1: "DepthwiseBlock", 2: "DepthwiseBlockStride2"}
BODIES = dict.fromkeys(DEPTHWISE_NAMES.values(), DEPTHWISE_BLOCK) | {"PreservationGate": PRESERVATION_GATE}


class CalledDepthwiseBlock(nn.Module):
    """A depthwise block that exports as a call of the local function; it cannot run in torch.

    Shape: x (B, C, h, w) -> (B, C, h / stride, w / stride).
    """

    def __init__(self, block: DepthwiseBlock) -> None:
        super().__init__()
        self.conv = block.conv
        norm = block[1]  # in FP16 models `Float32Norm` lies around it
        self.norm = cast(nn.GroupNorm, norm.norm if isinstance(norm, Float32Norm) else norm)

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        batch, channels, height, width = x.shape
        stride = self.conv.stride[0]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{DEPTHWISE_NAMES[stride]}",
            (x, self.conv.weight, self.norm.weight, self.norm.bias),
            attrs={"channels": channels, "groups": self.norm.num_groups, "stride": stride},
            dtype=x.dtype,
            shape=(batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1),
            version=VERSION,
        )


class CalledPreservationGate(PreservationGate):
    """A gate whose last step exports as a call of the local function; it cannot run in torch.

    Shape: x (B, C, h, w), modulation (B, C, h', w') -> (B, C, h, w).
    """

    def __init__(self, gate: PreservationGate) -> None:
        nn.Module.__init__(self)
        self.form, self.residual, self.alpha = gate.form, gate.residual, gate.alpha

    def blend(self, x: Tensor, m: Tensor, residual: Tensor) -> Tensor:
        """Call the function."""
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::PreservationGate",
            (x, m, residual, self.alpha),
            dtype=x.dtype,
            shape=x.shape,
            version=VERSION,
        )


def call_functions(model: Model) -> Model:
    """Replace the fused operators of a model, in place, by calls of local functions.

    Args:
        model: for export only; afterwards it cannot run in torch.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is DepthwiseBlock:
                module.register_module(name, CalledDepthwiseBlock(child))
            elif type(child) is PreservationGate and child.form == "modulate":
                module.register_module(name, CalledPreservationGate(child))
    return model


def define_functions(model: onnx.ModelProto) -> None:
    """Add the functions that a graph calls to its model; attributes of the calls move into the bodies.

    Raises:
        OvsdinoError: two calls of one function have different attributes.
    """
    bodies: dict[str, dict[str, int]] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if bodies.setdefault(node.op_type, numbers) != numbers:
            raise OvsdinoError(
                f"{node.op_type}: called with {bodies[node.op_type]} and {numbers}, a function has one body; "
                "export with --inline"
            )
        del node.attribute[:]
    for name, numbers in bodies.items():
        model.functions.append(parser.parse_function(BODIES[name].format(name=name, **numbers)))
    if bodies and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
