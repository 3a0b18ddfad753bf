"""Talk2DINO's background cleaning: attention of the class token sharpens each class's mask."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 0.125  # of queries, a constant of the official code; 64 ** -0.5 for its models


def class_token_attention(attention: nn.Module, tokens: Tensor, prefix: int) -> Tensor:
    """Return the class token's attention logits for every patch, of each head, before any softmax.

    Rotary positions are not applied: the official code takes queries and keys right after their projection.

    Source: lorebianchi98/Talk2DINO, ``models/dinotext/dinotext.py: process_self_attention``.

    Args:
        attention: a timm attention with ``qkv`` and ``num_heads``.
        tokens: its input.
        prefix: number of tokens before the patches: class token and registers.

    Shape: tokens (B, P + L, C) -> (B, heads, L).
    """
    qkv = cast(nn.Linear, attention.qkv)
    bias: Tensor | None = qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # timm keeps DINOv3's biases apart
        bias = torch.cat([cast(Tensor, getattr(attention, name)) for name in ("q_bias", "k_bias", "v_bias")])
    query, key, _ = F.linear(tokens, qkv.weight, bias).chunk(3, dim=-1)
    heads = cast(int, attention.num_heads)
    q = torch.unflatten(query[:, 0], -1, (heads, -1)) * SCALE  # (B, heads, d)
    k = torch.unflatten(key[:, prefix:], -1, (heads, -1))  # (B, L, heads, d)
    return torch.einsum("bmd,blmd->bml", q, k)


def clean_background(
    masks: Tensor, patches: Tensor, *, attention: Tensor, text: Tensor, weight: float
) -> Tensor:
    """Blend each class' mask of a window with the attention of the heads that attend to this class.

    Each head has an embedding, the mean of the patches weighted by its logits. The attention map of a class
    is the mean of the heads' maps, weighted by the softmax of their similarity to the class, followed by a
    softmax over the patches. All maps of the window are scaled to the range of its masks.

    Source: lorebianchi98/Talk2DINO, ``models/dinotext/dinotext.py: similarity_assignment_weighted``.

    Args:
        masks: probabilities of the classes.
        patches: patches of the window, not normalised.
        attention: attention logits of the class token, see `class_token_attention`.
        text: class embeddings of unit length.
        weight: weight of the attention maps; the official ``lambda_bg`` is 0.2.

    Shape: masks (N, h, w), patches (D, h, w), attention (heads, h * w), text (N, D) -> (N, h, w).
    """
    heads = torch.einsum("ml,dl->md", attention, patches.flatten(1)) / attention.shape[1]  # (heads, D)
    heads = heads / heads.norm(dim=-1, keepdim=True)
    shares = (text @ heads.T).softmax(-1)  # (N, heads)
    maps = (shares @ attention / shares.sum(-1, keepdim=True)).softmax(-1)  # (N, h * w)
    low, high = maps.min(), maps.max()
    maps = (maps - low) / torch.maximum(high, high - low)
    maps = maps * (masks.max() - masks.min()) + masks.min()
    cleaned: Tensor = (masks + weight * maps.reshape(masks.shape)) / (1 + weight)
    return cleaned
