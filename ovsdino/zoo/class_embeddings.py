"""Class embeddings of Talk2DINO: average CLIP's features, then project."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovsdino.dinov3seg.tokenizer import tokenize_clip
from ovsdino.zoo.talk2dino import Talk2DinoText

PROMPTS_AT_ONCE = 32


def embed_classes(text: Talk2DinoText, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """Embed each class: average CLIP's features over all prompts, project and normalise.

    Source: lorebianchi98/Talk2DINO, ``models/dinotext/dinotext.py: build_text_embedding``.

    Args:
        text: CLIP's text encoder and the projection.
        classes: the words of each class.
        templates: prompts around each word.

    Shape: -> (N, D).
    """
    means = []
    for words in classes:
        ids = tokenize_clip([template.replace("{}", word) for word in words for template in templates])
        raw = torch.cat([text.encode_raw(part) for part in torch.split(ids, PROMPTS_AT_ONCE)])
        means.append(raw.mean(0))  # (clip width,)
    return text.project(torch.stack(means))
