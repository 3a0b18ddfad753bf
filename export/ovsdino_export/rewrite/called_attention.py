"""Export attention as one call, which engines compute without storing the scores of all tokens at once.

The call has the name of ONNX Runtime's own operator, ``com.microsoft::MultiHeadAttention``, and the graph
defines a local function of that name with standard operators as body. Each engine uses what it has:

- ONNX Runtime: its own kernel, on a CPU for FP32, on CUDA for FP32 and FP16.
- TensorRT for RTX 1.7: one attention layer, in any precision.
- Every other engine: the body, whose softmax is FP32.
"""

from __future__ import annotations

from typing import TypeVar

import onnx
import torch
from onnx import parser
from torch import Tensor, nn

from ovsdino_export.rewrite.explicit_attention import ExplicitAttention
from ovsdino_runtime.base.errors import OvsdinoError

Model = TypeVar("Model", bound=nn.Module)

DOMAIN = "com.microsoft"
VERSION = 1
ATTENTION = "MultiHeadAttention"
BODY = """
    <opset_import: ["" : 18], domain: "com.microsoft">
    MultiHeadAttention <num_heads, scale> (query, key, value) => (output) {{
        scale_float = Constant <value_float = {scale}> ()
        factor = CastLike (scale_float, query)
        split = Constant <value_ints = [0, 0, {heads}, -1]> ()
        scaled = Mul (query, factor)
        queries = Reshape (scaled, split)
        keys = Reshape (key, split)
        values = Reshape (value, split)
        q = Transpose <perm = [0, 2, 1, 3]> (queries)
        k = Transpose <perm = [0, 2, 3, 1]> (keys)
        v = Transpose <perm = [0, 2, 1, 3]> (values)
        scores = MatMul (q, k)
        wide = Cast <to = 1> (scores)
        shares = Softmax <axis = -1> (wide)
        weights = CastLike (shares, value)
        mixed = MatMul (weights, v)
        tokens = Transpose <perm = [0, 2, 1, 3]> (mixed)
        joined = Constant <value_ints = [0, 0, -1]> ()
        output = Reshape (tokens, joined)
    }}
"""


class CalledAttention(nn.Module):
    """An attention without mask that exports as a call; it cannot run in torch.

    Shape: tokens (B, L, C) -> (B, L, C).
    """

    def __init__(self, attention: ExplicitAttention) -> None:
        super().__init__()
        self.qkv, self.output = attention.qkv, attention.output
        self.heads, self.scale = attention.heads, attention.scale

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Call the function."""
        if attn_mask is not None or is_causal:
            raise ValueError("an attention with a mask cannot be exported as a call")
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)  # (B, L, C) each
        mixed = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{ATTENTION}",
            (q, k, v),
            attrs={"num_heads": self.heads, "scale": self.scale},
            dtype=q.dtype,
            shape=q.shape,
            version=VERSION,
        )
        return self.output(mixed)  # type: ignore[no-any-return]


def call_attention(model: Model) -> Model:
    """Replace the written-out attentions of a vision model, in place, by calls.

    An attention whose products stay in FP32 inside a half-precision model stays written out: its values have
    two types, and a call has one.

    Args:
        model: a restated model; afterwards it can only be exported, not run in torch.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is ExplicitAttention and not child.wide:
                module.register_module(name, CalledAttention(child))
    return model


def define_attention(model: onnx.ModelProto) -> None:
    """Add the function that the graph's attentions call, if there are any.

    Raises:
        OvsdinoError: attentions differ in heads or scale, but a function has only one body.
    """
    calls = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type == ATTENTION]
    forms = {tuple(sorted((item.name, item.i or item.f) for item in call.attribute)) for call in calls}
    if len(forms) > 1:
        raise OvsdinoError(f"attentions of {len(forms)} forms, a function has one; export with --inline")
    for form in forms:
        numbers = dict(form)
        body = BODY.format(heads=numbers["num_heads"], scale=numbers["scale"])
        model.functions.append(parser.parse_function(body))
    if forms and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def keep_calls(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph for ONNX Runtime only: attentions stay calls, all other functions are inlined."""
    from onnx import inliner

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    kept = [function for function in bare.functions if function.domain != DOMAIN]
    calls = len(kept) < len(bare.functions)
    del bare.functions[:]
    bare.functions.extend(kept)
    plain = inliner.inline_local_functions(bare)
    if calls and DOMAIN not in {opset.domain for opset in plain.opset_import}:
        plain.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return plain
