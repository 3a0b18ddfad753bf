"""Loss terms of dinov3.seg: binary cross-entropy of each class at each pixel, and an auxiliary loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.losses import binary_cross_entropy
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import PhotoMismatchError
from ovsdino.training.data_recipe import DataRecipe, LossWeights
from ovsdino.training.systems.ovsdino_losses import decide, words_cross_entropy


def dinov3seg_loss_terms(
    model: Dinov3Seg, batch: Batch, *, recipe: DataRecipe, weights: LossWeights
) -> dict[str, Tensor]:
    """Return the loss terms of a batch: ``bce`` and, if weighted, the cross-entropy of the correlation.

    The words are encoded in each step, so that the text tower is trained.

    Source: the paper gives no loss; ``bce`` is CAT-Seg's. The cross-entropy of the correlation is ours, for a
    VLM whose towers were not aligned before.

    Args:
        model: the network, in train mode.
        batch: a batch on the model's device; its masks partition each photo, its ``text`` are token ids.
        recipe: the data recipe of the batch.
        weights: loss weights; terms with weight 0 are not computed.

    Returns:
        Scalars by the names of :class:`LossWeights`.

    Raises:
        DataError: masks that may overlap.
    """
    if batch.labels is None or not bool(batch.exclusive.all()):
        raise PhotoMismatchError(
            f"{', '.join(batch.photos)}: masks that may overlap; dinov3.seg learns from masks that partition "
            "a photo, of `ovsdino pseudo-masks --source labels` or segmenters"
        )
    text = model.vlm.text(batch.text)  # (N, text width)
    patches = model.refine_patches(batch.pixels, model.vlm.vision(batch.pixels))  # (B, D, h, w)
    terms = {}
    if weights.bce:
        words = slice(None) if batch.decoded is None else batch.decoded
        logits = model.decode(patches, model.see_prior(batch.pixels), text=text[words])  # (B, K, 4h, 4w)
        terms["bce"] = one_hot_bce(logits, batch, labels=batch.labels, recipe=recipe)
    if weights.cross_entropy:
        costs = correlate(patches, text_halves(text, model.config)).mean(2)  # (B, N, h, w)
        terms["cross_entropy"] = words_cross_entropy(costs, batch, labels=batch.labels, recipe=recipe)
    return terms


def one_hot_bce(logits: Tensor, batch: Batch, *, labels: Tensor, recipe: DataRecipe) -> Tensor:
    """Return the binary cross-entropy of logits against the label map.

    With ``recipe.one_hot`` unknown pixels count as none of the words, and all pixels count equally (CAT-Seg).
    Otherwise undecided pixels are left out (`decide`).

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
