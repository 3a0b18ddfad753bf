"""dino.txt's text tower, and the choice of a tower by configuration."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovsdino.dinov3seg.config import VlmConfig
from ovsdino.network.clip_text import ClipTextTower
from ovsdino.network.text_tower import TextConfig, TextTower


class DinoTxtText(nn.Module):
    """24 causal blocks of width 1280, read at the end-of-text token and projected to 2048.

    Columns ``0:1024`` of the result are compared with a photo's class token (the global half), columns
    ``1024:2048`` with its patches (the local half). Attention is causal: tokens after the end have no effect.

    Source: facebookresearch/dinov3, ``eval/text/text_transformer.py`` and ``text_tower.py``.

    Args:
        config: sizes of the tower.

    Shape: ids (N, T), T at most the context -> (N, text width), not normalised.
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.checkpointing = config.text_checkpointing
        channels = config.text_channels
        self.token_embedding = nn.Embedding(config.text_vocabulary, channels)
        self.positional_embedding = nn.Parameter(torch.randn(config.text_context, channels) * 0.01)
        self.blocks = nn.ModuleList(
            EvaBlock(channels, config.text_heads, qkv_bias=False, norm_layer=partial(nn.LayerNorm, eps=1e-5))
            for _ in range(config.text_layers)
        )
        self.ln_final = nn.LayerNorm(channels)
        self.linear_projection = nn.Linear(channels, config.text_width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids."""
        tokens = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:tokens]  # (N, T, channels)
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=ids.device).tril()
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, attn_mask=causal, use_reentrant=False)
            else:
                x = block(x, attn_mask=causal)
        end = ids.argmax(-1)[:, None, None].expand(-1, -1, x.shape[-1])  # (N, 1, channels)
        return cast(Tensor, self.linear_projection(self.ln_final(x.gather(1, end).squeeze(1))))


def build_text(config: VlmConfig) -> DinoTxtText | TextTower | ClipTextTower:
    """Build the text tower of a configuration. Shape: ids (N, T) -> (N, text width)."""
    if config.text == "nano":
        return TextTower(TextConfig(text_width=config.text_width))
    if config.text == "clip":
        return ClipTextTower(width=config.text_channels, heads=config.text_heads, layers=config.text_layers)
    return DinoTxtText(config)
