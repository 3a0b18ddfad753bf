"""CLIP's text encoder, frozen: class prompts to unit vectors."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch.nn.functional as F
from open_clip.transformer import QuickGELU, TextTransformer
from torch import Tensor, nn

from ovsdino.network.checkpoint import fill, read_tensors

CONTEXT = 77  # [tokens]
VOCABULARY = 49408  # the last number is the end-of-text token, the highest: CLIP pools where ids are largest

TEXT_KEYS = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


class ClipTextTower(nn.Module):
    """CLIP's text encoder: causal transformer blocks, by default those of ViT-B/16.

    Attention is causal and the embedding is read at the end-of-text token. Tokens after it have no effect, so
    any length up to the context is valid.

    Source: OVS-DINO, section 4 (text encoder); layers from open_clip, ``ViT-B-16-quickgelu``.

    Args:
        width: width of the blocks and of the embedding.
        heads, layers: number of attention heads and of blocks.

    Shape: ids (B, T), T at most 77 -> embeddings (B, width), FP32, unit length.
    """

    def __init__(self, *, width: int = 512, heads: int = 8, layers: int = 12) -> None:
        super().__init__()
        self.clip = TextTransformer(
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            width=width,
            heads=heads,
            layers=layers,
            output_dim=width,
            act_layer=QuickGELU,
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids."""
        return F.normalize(self.encode_raw(ids), dim=-1)

    def encode_raw(self, ids: Tensor) -> Tensor:
        """Encode token ids without normalising the embeddings: (B, T) -> (B, width), FP32."""
        tokens = ids.shape[1]
        x = self.clip.token_embedding(ids) + self.clip.positional_embedding[:tokens]  # (B, T, width)
        x = self.clip.transformer(x, attn_mask=self.clip.attn_mask[:tokens, :tokens])
        x = self.clip.ln_final(x)
        end = ids.argmax(-1)[:, None, None].expand(-1, -1, x.shape[-1])  # (B, 1, width)
        pooled = x.gather(1, end).squeeze(1)  # (B, width); indexing by rows would export a Range
        return cast(Tensor, pooled @ self.clip.text_projection).float()


def load_clip_text(path: Path) -> ClipTextTower:
    """Load the text encoder from a CLIP ViT-B/16 checkpoint with the official key names.

    Raises:
        CheckpointError: the file is missing, broken, or not CLIP ViT-B/16.
    """
    tensors = {key: value for key, value in read_tensors(path).items() if key.startswith(TEXT_KEYS)}
    tower = ClipTextTower()
    fill(tower.clip, tensors, path=path, name="CLIP ViT-B/16's text encoder")
    return tower.eval()
