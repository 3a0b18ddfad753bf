"""What a batch teaches dinov3.seg: each class at each pixel, yes or no."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.losses import binary_cross_entropy
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import DataError
from ovsdino.training.data_recipe import DataRecipe, LossWeights
from ovsdino.training.systems.ovsdino_losses import decide, words_cross_entropy


def dinov3seg_loss_terms(
    model: Dinov3Seg, batch: Batch, recipe: DataRecipe, weights: LossWeights
) -> dict[str, Tensor]:
    """Return the loss terms of a batch: ``bce`` of the logits, and the correlation's own where it weighs.

    The words are encoded anew, so that the text tower learns.

    Source: dinov3.seg is silent; ``bce`` is CAT-Seg's. The cross-entropy over the correlation is ours, for a
    VLM whose towers have not met.

    Args:
        model: the network, in training.
        batch: on the model's device; its masks partition each photo and its ``text`` are token ids.
        recipe: what the batch was made with.
        weights: a term without one is not computed.

    Returns:
        Scalars by the names of :class:`LossWeights`.

    Raises:
        DataError: masks that may overlap.
    """
    if batch.labels is None or not bool(batch.exclusive.all()):
        raise DataError(
            f"{', '.join(batch.photos)}: masks that may overlap; dinov3.seg learns from masks that partition "
            "a photo, of `ovsdino pseudo-masks --source labels` or segmenters"
        )
    text = model.vlm.text(batch.text)  # (N, text width)
    patches = model.refine_patches(batch.pixels, model.vlm.vision(batch.pixels))  # (B, D, h, w)
    terms = {}
    if weights.bce:
        words = slice(None) if batch.decoded is None else batch.decoded
        logits = model.decode(patches, model.see_prior(batch.pixels), text[words])  # (B, K, 4h, 4w)
        terms["bce"] = one_hot_bce(logits, batch, batch.labels, recipe)
    if weights.cross_entropy:
        costs = correlate(patches, text_halves(text, model.config)).mean(2)  # (B, N, h, w)
        terms["cross_entropy"] = words_cross_entropy(costs, batch, batch.labels, recipe)
    return terms


def one_hot_bce(logits: Tensor, batch: Batch, labels: Tensor, recipe: DataRecipe) -> Tensor:
    """Compare logits with the label map, one class at a time.

    With ``recipe.one_hot`` a pixel of which nothing is said counts as none of the words, and all count alike
    (CAT-Seg); else what is undecided is left out (`decide`).

    Shape: logits (B, K, h, w) of ``batch.decoded``, labels (B, s, s) -> scalar.
    """
    words = slice(None) if batch.decoded is None else batch.decoded
    dense = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)  # (B, K, s, s)
    if recipe.one_hot:
        numbers = torch.arange(len(batch.words), device=labels.device)[words]
        truth = (labels[:, None] == numbers[:, None, None]).float()  # (B, K, s, s)
        return F.binary_cross_entropy_with_logits(dense, truth)
    decided = decide(batch, labels)
    return binary_cross_entropy(dense, decided.masks[:, words].float(), decided.valid[:, words].float())
