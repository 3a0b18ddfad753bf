"""Restate the parts of a model that engines read badly, without changing its numbers."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from ovsdino.backbone import Backbone

Model = TypeVar("Model", bound=nn.Module)


class ExplicitAttention(nn.Module):
    """Self-attention written out: ``softmax((scale * q) k^T + mask) v``, with the softmax in FP32.

    TensorRT 10.7 gets the exported `scaled_dot_product_attention` wrong even in FP32 (NVIDIA/TensorRT#4333).
    It fuses this form when the scale lies on q before the product; behind it, the scores would overflow FP16.

    Args:
        qkv: C to 3 C, the queries first.
        output: C to C.
        heads: number of heads, a divisor of C.

    Shape: tokens (B, L, C), mask (L, L) or (B, 1, L, L) added to the scores, or None -> (B, L, C).
    """

    def __init__(self, qkv: nn.Linear, output: nn.Linear, heads: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.output = output
        self.heads = heads
        self.width = output.in_features
        self.scale = float((self.width // heads) ** -0.5)
        self.wide = False  # both products in FP32 as well; see `ovsdino_export.ladder`

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; the arguments are those of timm's attention."""
        if is_causal:
            raise ValueError("a causal attention must be given as attn_mask to be exported")
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)  # (B, L, C) each
        if self.wide:
            q, k, v = q.float(), k.float(), v.float()
        split = (-1, tokens.shape[1], self.heads, self.width // self.heads)
        q = (q * self.scale).reshape(split).transpose(1, 2)  # (B, heads, L, d)
        k = k.reshape(split).permute(0, 2, 3, 1)  # (B, heads, d, L)
        v = v.reshape(split).transpose(1, 2)  # (B, heads, L, d)
        scores = (q @ k).float()  # (B, heads, L, L)
        if attn_mask is not None:
            scores = scores + additive(attn_mask)
        weights = scores.softmax(dim=-1).to(v.dtype)  # in (0, 1)
        mixed = (weights @ v).transpose(1, 2).reshape(-1, tokens.shape[1], self.width)  # (B, L, C)
        return self.output(mixed.to(tokens.dtype))  # type: ignore[no-any-return]


class ExplicitMultiheadAttention(nn.Module):
    """`ExplicitAttention` behind the interface of `torch.nn.MultiheadAttention`, for self-attention only.

    Shape: query = key = value (B, L, C) -> (B, L, C) and None for the weights.
    """

    def __init__(self, attention: ExplicitAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; `is_causal` is a hint that goes with `attn_mask`, as in torch."""
        if query is not key or key is not value or need_weights:
            raise ValueError("only self-attention without its weights can be exported")
        if is_causal and attn_mask is None:
            raise ValueError("a causal attention must be given as attn_mask to be exported")
        masks = [] if attn_mask is None else [additive(attn_mask)]
        if key_padding_mask is not None:  # (B, L), True where there is nothing
            masks.append(torch.where(key_padding_mask, float("-inf"), 0.0)[:, None, None])  # (B, 1, 1, L)
        return self.attention(query, sum(masks) if masks else None), None


class FixedBackbone(Backbone):
    """The backbone with its position embedding resized once, for the grid of its own config.

    A bicubic resize in the graph differs between engines, and with antialias does not export at all.

    Shape: pixels (B, 3, S, S) -> as the backbone.
    """

    prefix: Tensor
    positions: Tensor

    def __init__(self, backbone: Backbone) -> None:
        nn.Module.__init__(self)
        self.config = backbone.config
        self.vit = backbone.vit
        size = (self.config.grid, self.config.grid)
        empty = torch.zeros(1, size[0] * size[1], self.config.backbone_width)
        placed = backbone.with_prefix(empty, size).detach()  # (1, P + h * w, C)
        self.register_buffer("prefix", placed[:, : self.vit.num_prefix_tokens].clone())
        self.register_buffer("positions", placed[:, self.vit.num_prefix_tokens :].clone())

    def with_prefix(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the fixed positions and put the prefix in front: (B, h * w, C) -> (B, P + h * w, C)."""
        if size != (self.config.grid, self.config.grid):
            raise ValueError(
                f"the exported grid is {self.config.grid} patches a side, got {size[0]}x{size[1]}"
            )
        prefix = self.prefix.expand(tokens.shape[0], -1, -1)  # (B, P, C)
        return torch.cat([prefix, tokens + self.positions], dim=1)


def additive(mask: Tensor) -> Tensor:
    """Turn a mask of what may be seen (True) into one that is added to scores; others stay as they are."""
    return torch.where(mask, 0.0, float("-inf")) if mask.dtype == torch.bool else mask


def restate(model: Model) -> Model:
    """Copy a model with its attentions written out and its position embedding fixed to its own grid.

    Args:
        model: any module; it is left as it was.

    Returns:
        A copy in eval mode, equal to about 1e-6.

    Raises:
        ValueError: an attention of a form that has no restatement yet.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Backbone):
                module.register_module(name, FixedBackbone(child))
            elif type(child) is Attention:  # a subclass may compute something else
                module.register_module(name, from_timm(child))
            elif type(child) is nn.MultiheadAttention:
                module.register_module(name, ExplicitMultiheadAttention(from_multihead(child)))
    return model


def from_timm(attention: Attention) -> ExplicitAttention:
    """Restate timm's attention with the same weights."""
    parts = {
        name for name, part in attention.named_children() if not isinstance(part, nn.Identity | nn.Dropout)
    }
    if parts != {"qkv", "proj"}:
        raise ValueError(f"an attention with {sorted(parts - {'qkv', 'proj'})} cannot be exported yet")
    return ExplicitAttention(attention.qkv, attention.proj, attention.num_heads)


def from_multihead(attention: nn.MultiheadAttention) -> ExplicitAttention:
    """Restate torch's attention with the same weights."""
    if attention.in_proj_weight is None or not attention.batch_first or attention.bias_k is not None:
        raise ValueError("only a MultiheadAttention of one width with batch_first can be exported")
    qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, bias=attention.in_proj_bias is not None)
    qkv.weight, qkv.bias = attention.in_proj_weight, attention.in_proj_bias
    return ExplicitAttention(qkv, attention.out_proj, attention.num_heads)
