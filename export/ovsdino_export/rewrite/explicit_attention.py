"""Attention written out with basic operators, which all engines compute equally."""

from __future__ import annotations

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn


class ExplicitAttention(nn.Module):
    """Self-attention written out: ``softmax((scale * q) k^T + mask) v``, with the softmax in FP32.

    TensorRT 10.7 computes the exported `scaled_dot_product_attention` wrongly even in FP32
    (TensorRT#4333). It fuses this form if q is scaled before the product; scaled afterwards, the scores
    would overflow FP16.

    Args:
        qkv: linear layer from C to 3 C, queries first.
        output: linear layer from C to C.
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
        self.wide = False  # both products in FP32 as well; see `ovsdino_export.precision.find_fp32_layers`

    @property
    def proj(self) -> nn.Linear:
        """The output layer under timm's name, for code that uses the parts of CLIP's last block."""
        return self.output

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

    def forward(  # noqa: PLR0917 - the signature of torch
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; `is_causal` is only a hint about `attn_mask`, as in torch."""
        if query is not key or key is not value or need_weights:
            raise ValueError("only self-attention without its weights can be exported")
        if is_causal and attn_mask is None:
            raise ValueError("a causal attention must be given as attn_mask to be exported")
        masks = [] if attn_mask is None else [additive(attn_mask)]
        if key_padding_mask is not None:  # (B, L), True where there is nothing
            masks.append(torch.where(key_padding_mask, float("-inf"), 0.0)[:, None, None])  # (B, 1, 1, L)
        return self.attention(query, sum(masks) if masks else None), None


def additive(mask: Tensor) -> Tensor:
    """Convert a boolean mask (True: may attend) to one that is added to scores; other masks are unchanged."""
    return torch.where(mask, 0.0, float("-inf")) if mask.dtype == torch.bool else mask


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
