"""Restate timm's transformers for one image size, with equal results."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ovsdino_export.rewrite.explicit_attention import ExplicitAttention


class RotaryAttention(ExplicitAttention):
    """timm's EVA attention with optional RoPE, written out.

    Args:
        qkv, output, heads: see `ExplicitAttention`.
        halves: whether the channels of a rotated pair lie half the width apart.

    Shape: tokens (B, L, C), rope (L, 2 d), of all tokens, sines first, or None; mask as its parent ->
        (B, L, C).
    """

    def __init__(self, qkv: nn.Linear, output: nn.Linear, heads: int, *, halves: bool) -> None:
        super().__init__(qkv, output, heads)
        self.halves = halves

    def forward(  # type: ignore[override]  # noqa: PLR0917 - the signature of timm
        self,
        tokens: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Attend; the arguments are those of timm's attention."""
        if rope is None:
            return super().forward(tokens, attn_mask, is_causal)
        if attn_mask is not None or is_causal or not self.halves:
            raise ValueError(
                "a rotary attention with a mask, or whose pairs are neighbours, cannot be exported"
            )
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)  # (B, L, C) each
        if self.wide:
            q, k, v = q.float(), k.float(), v.float()
        split = (-1, tokens.shape[1], self.heads, self.width // self.heads)
        q, k, v = (x.reshape(split).transpose(1, 2) for x in (q * self.scale, k, v))  # (B, heads, L, d)
        sines, cosines = rope.to(q.dtype).chunk(2, dim=-1)  # (L, d)
        q, k = (x * cosines + rotate_half(x) * sines for x in (q, k))
        weights = (q @ k.transpose(-2, -1)).float().softmax(dim=-1).to(v.dtype)  # (B, heads, L, L)
        mixed = (weights @ v).transpose(1, 2).reshape(-1, tokens.shape[1], self.width)  # (B, L, C)
        return self.output(mixed.to(tokens.dtype))  # type: ignore[no-any-return]


def rotate_half(x: Tensor) -> Tensor:
    """Rotate each pair of channels, half the width apart, by 90 degrees. Shape: (..., d), kept."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def from_eva(attention: EvaAttention) -> RotaryAttention:
    """Restate timm's EVA attention with the same weights.

    Raises:
        ValueError: it has parts that cannot be restated yet.
    """
    parts = {n for n, part in attention.named_children() if not isinstance(part, nn.Identity | nn.Dropout)}
    if parts != {"qkv", "proj"}:
        raise ValueError(f"an EVA attention with {', '.join(sorted(parts))} cannot be exported yet")
    qkv = attention.qkv
    if attention.q_bias is not None:
        biases = [attention.q_bias, attention.k_bias, attention.v_bias]
        joined = nn.Linear(qkv.in_features, qkv.out_features, device="meta")
        joined.weight = qkv.weight
        joined.bias = nn.Parameter(torch.cat(cast(list[Tensor], biases)), requires_grad=False)
        qkv = joined
    return RotaryAttention(qkv, attention.proj, heads=attention.num_heads, halves=attention.rotate_half)


class FixedPositions(nn.Module):
    """timm's ``_pos_embed`` for one grid: precomputed positions, class token and registers prepended.

    Shape: patches (B, h, w, C) -> tokens (B, P + h * w, C), with a RoPE besides its table (P + h * w, 2 d)
        that leaves the first P tokens as they are.
    """

    prefix: Tensor
    positions: Tensor
    rope: Tensor | None

    def __init__(self, vit: VisionTransformer | Eva, grid: tuple[int, int]) -> None:
        super().__init__()
        placed = vit._pos_embed(torch.zeros(1, *grid, vit.embed_dim))
        tokens, rope = placed if isinstance(placed, tuple) else (placed, None)
        prefix = vit.num_prefix_tokens
        self.grid = grid
        self.register_buffer("prefix", tokens[:, :prefix].detach().clone())  # (1, P, C)
        self.register_buffer("positions", tokens[:, prefix:].detach().clone())  # (1, h * w, C)
        if rope is not None:
            still = torch.cat(
                [torch.zeros(prefix, rope.shape[-1] // 2), torch.ones(prefix, rope.shape[-1] // 2)], 1
            )
            rope = torch.cat([still, rope.detach()])
        self.register_buffer("rope", rope)

    def forward(self, patches: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Add positions to the patches."""
        if patches.shape[1:3] != self.grid:
            raise ValueError(f"the exported grid is {self.grid} patches, got {tuple(patches.shape[1:3])}")
        prefix = self.prefix.expand(patches.shape[0], -1, -1)  # (B, P, C)
        tokens = torch.cat([prefix, patches.flatten(1, 2) + self.positions], dim=1)
        return tokens if self.rope is None else (tokens, self.rope)


def fix_positions(vit: VisionTransformer | Eva, grid: tuple[int, int]) -> None:
    """Fix a timm model's positions for one grid [patches], in place; its EVA attentions must be restated."""
    vit.register_module("fixed_positions", FixedPositions(vit, grid))
    vit.__dict__["_pos_embed"] = vit.fixed_positions  # stands before the class's method
