"""Class embeddings of dinov3.seg: the mean over a class's words and templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.tokenizer import tokenize


@torch.inference_mode()
def embed_classes(
    model: Dinov3Seg, classes: Sequence[Sequence[str]], templates: Sequence[str] | None = None
) -> Tensor:
    """Embed classes: embed each word in each template, normalise both halves, then average.

    The network normalises the halves of the mean again (`correlation.text_halves`). The paper has one word
    and one template, for which this changes nothing; several are our reconstruction.

    Source: facebookresearch/dinov3, ``notebooks/dinotxt_segmentation_inference.ipynb`` (each half is
    normalised before and after the mean).

    Args:
        model: its text tower embeds the prompts.
        classes: the words of each class.
        templates: prompts around each word; None uses the model's own.

    Shape: -> (N, text width).
    """
    config, device = model.config.vlm, next(model.parameters()).device
    chosen = model.config.templates if templates is None else templates
    means = []
    for words in classes:
        prompts = [template.replace("{}", word) for word in words for template in chosen]
        text = model.vlm.text(tokenize(prompts, config).to(device))  # (P, text width)
        halves = text.unflatten(-1, (config.halves, config.width))  # (P, halves, D)
        means.append(F.normalize(halves, dim=-1).mean(0).flatten())
    return torch.stack(means)
