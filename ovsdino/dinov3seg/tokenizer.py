"""Tokenize prompts for a text tower."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from torch import Tensor

from ovsdino.dinov3seg.config import VlmConfig
from ovsdino.network.checkpoint import TOKENIZER, packaged_file


def tokenize(prompts: Sequence[str], config: VlmConfig) -> Tensor:
    """Tokenize prompts for the VLM's text tower, padded; a truncated prompt keeps its end-of-text token.

    Shape: -> ids (N, T) int64; T is 77 for CLIP's tokenizer, the longest prompt for nano's.
    """
    if config.text == "nano":
        return torch.tensor([encoding.ids for encoding in _nano().encode_batch(list(prompts))])
    return tokenize_clip(prompts, context=config.text_context)


def tokenize_clip(prompts: Sequence[str], *, context: int = 77) -> Tensor:
    """Tokenize for CLIP; a truncated prompt keeps its end-of-text token. Shape: -> (N, context)."""
    return cast(Tensor, _clip()(list(prompts), context_length=context))


@cache
def _clip() -> SimpleTokenizer:
    return SimpleTokenizer()


@cache
def _nano() -> Tokenizer:
    return Tokenizer.from_file(str(packaged_file(TOKENIZER)))
