"""Loss terms of OVS-DINO, and the rules which words are right, wrong or undecided at each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.network.config import SAM_GRID_FACTOR
from ovsdino.network.head import cosine
from ovsdino.network.losses import binary_cross_entropy, cosine_alignment, dice, mse_alignment
from ovsdino.network.model import OVSDINO
from ovsdino.training.data.batch import OTHER, UNKNOWN, Batch
from ovsdino.training.data_recipe import DataRecipe, LossWeights
from ovsdino.training.targets.structure_target import structure_target

__all__ = ["LossWeights", "loss_terms"]

SILENT = -30.0  # logit of a word that must not compete


def loss_terms(model: OVSDINO, batch: Batch, recipe: DataRecipe) -> dict[str, Tensor]:
    """Return the unweighted loss terms of a batch; terms without ground truth in the batch are left out.

    Source: OVS-DINO, eq. 10, 11 and 15; the cross-entropy over the words of the batch and the loss of words
    without a mask are ours.

    Args:
        model: the network; without an encoder it takes SAM's features as structure map.
        batch: a batch on the model's device.
        recipe: the data recipe of the batch.

    Returns:
        Scalars by the names of :class:`LossWeights`.
    """
    rows, columns = (SAM_GRID_FACTOR * side // model.config.patch_size for side in batch.pixels.shape[-2:])
    channels = model.config.structure_channels
    target = structure_target(batch, recipe, channels=channels, size=(rows, columns))
    encoded = model.encode(batch.pixels, None if model.config.encoder else target)
    similarity = cosine(encoded.features, batch.text)  # (B, N, h, w)
    terms: dict[str, Tensor] = {}
    if target is not None and model.config.encoder:
        structure = encoded.structure[:, : target.shape[1]]
        terms["align_cosine"] = cosine_alignment(structure, target)
        terms["align_mse"] = mse_alignment(structure, target)
    terms |= mask_terms(model, similarity, batch=batch, recipe=recipe)
    if batch.boxes:
        terms["weak"] = weak_loss(similarity, batch, recipe)
    return terms


def mask_terms(model: OVSDINO, similarity: Tensor, *, batch: Batch, recipe: DataRecipe) -> dict[str, Tensor]:
    """Return Dice, BCE and cross-entropy; exclusive and other photos are weighted by their number."""
    if batch.labels is None:
        return pair_terms(model, similarity, batch=batch, recipe=recipe)
    terms = label_terms(model, similarity, batch=batch, labels=batch.labels, recipe=recipe)
    share = float(batch.exclusive.float().mean())
    if share == 1:
        return terms
    for name, value in pair_terms(model, similarity, batch=batch, recipe=recipe).items():
        terms[name] = share * terms[name] + (1 - share) * value
    return terms


def guard(batch: Batch) -> Tensor:
    """Return for each photo which words must not compete with each other: (B, N, N) bool.

    These are synonyms, wider and narrower words, and words of nearly equal meaning, unless the closed list of
    the photo contains both: a road must be distinguished from a sidewalk, however similar the words are.
    """
    told_apart = batch.closed[:, :, None] & batch.closed[:, None, :]  # (B, N, N)
    return batch.related | batch.similar & ~told_apart


@dataclass(frozen=True)
class Decided:
    """The truth of each word at each pixel according to a label map; (B, N, s, s) bool each."""

    masks: Tensor  # the word is right
    undecided: Tensor  # the word must not compete
    valid: Tensor  # the word is right or wrong


def decide(batch: Batch, labels: Tensor) -> Decided:
    """Return which words are right, wrong or undecided at each pixel of photos with exclusive masks.

    Inside a mask its own word is right and every other word is wrong unless guarded. Where none of the closed
    words is present, these are wrong. Unknown pixels stay undecided.

    Shape: labels (B, s, s).
    """
    known = labels >= 0
    photo = torch.arange(len(labels), device=labels.device)[:, None, None]
    undecided = guard(batch)[photo, labels.clamp(min=0)].permute(0, 3, 1, 2)  # (B, N, s, s)
    undecided = undecided | ~batch.valid[:, :, None, None]
    masks = F.one_hot(labels.clamp(min=0), undecided.shape[1]).permute(0, 3, 1, 2).bool() & known[:, None]
    wrong = (labels == OTHER)[:, None] & (batch.closed & batch.valid)[:, :, None, None]
    return Decided(masks, undecided, known[:, None] & ~undecided | wrong)


def label_terms(
    model: OVSDINO, similarity: Tensor, *, batch: Batch, labels: Tensor, recipe: DataRecipe
) -> dict[str, Tensor]:
    """Return the loss terms of photos with exclusive masks."""
    dense = F.interpolate(similarity, labels.shape[1:], mode="bilinear", align_corners=False)  # (B, N, s, s)
    decided = decide(batch, labels)
    scores = model.head.scale * dense + model.head.bias
    truth, valid = decided.masks.float(), decided.valid.float()
    return {
        "cross_entropy": cross_entropy(dense, labels, decided=decided, recipe=recipe),
        "bce": binary_cross_entropy(scores, truth, valid),
        "dice": dice(scores, truth, valid, smoothing=recipe.dice_smoothing),
    }


def words_cross_entropy(similarity: Tensor, batch: Batch, *, labels: Tensor, recipe: DataRecipe) -> Tensor:
    """Return the cross-entropy over the words of the batch, from cosines (B, N, h, w)."""
    dense = F.interpolate(similarity, labels.shape[1:], mode="bilinear", align_corners=False)  # (B, N, s, s)
    return cross_entropy(dense, labels, decided=decide(batch, labels), recipe=recipe)


def cross_entropy(dense: Tensor, labels: Tensor, *, decided: Decided, recipe: DataRecipe) -> Tensor:
    """Return the cross-entropy of cosines (B, N, s, s) at the labelled pixels of labels (B, s, s)."""
    known = labels >= 0
    logits = (dense / recipe.temperature).masked_fill(decided.undecided, SILENT)
    target = labels.where(known, UNKNOWN)
    count = known.sum().clamp(min=1)  # a batch without a known pixel has no cross-entropy
    weight = word_weights(target, dense.shape[1], recipe.balance)
    return F.cross_entropy(logits, target, weight, ignore_index=UNKNOWN, reduction="sum") / count


def word_weights(target: Tensor, count: int, balance: float) -> Tensor:
    """Return weights of words, so that words with few pixels count against walls and sky.

    A word of n pixels has weight n ** -balance, at most ten times the smallest; the mean over pixels is 1.

    Shape: target (B, s, s), negative where nothing is known -> (count,).
    """
    pixels = torch.bincount(target[target >= 0], minlength=count).float()  # (N,)
    weight = pixels.clamp(min=1).pow(-balance)
    weight = weight.clamp(max=10 * weight.min())
    return weight * pixels.sum().clamp(min=1) / (weight * pixels).sum().clamp(min=1e-12)


def pair_terms(model: OVSDINO, similarity: Tensor, *, batch: Batch, recipe: DataRecipe) -> dict[str, Tensor]:
    """Return the paper's loss terms: a mask for each word of a photo, and absent words as negatives.

    Source: OVS-DINO, eq. 15; logits are upsampled to the masks (reconstructed).
    """
    side = batch.masks.shape[-1]
    absent = batch.valid & ~batch.exclusive[:, None]  # (B, N): judged, and without a mask
    absent[batch.pairs[:, 0], batch.pairs[:, 1]] = False
    pairs = torch.cat([batch.pairs, absent.nonzero()])  # (Q, 2)
    if not len(pairs):
        nothing = 0 * similarity.sum()
        return {"bce": nothing, "dice": nothing}
    chosen = similarity[pairs[:, 0], pairs[:, 1]][None]  # (1, Q, h, w)
    dense = F.interpolate(chosen, (side, side), mode="bilinear", align_corners=False)  # (1, Q, s, s)
    scores = model.head.scale * dense + model.head.bias
    empty = batch.masks.new_zeros(len(pairs) - len(batch.masks), side, side)
    masks = torch.cat([batch.masks, empty])[None].float()  # (1, Q, s, s)
    known = torch.ones_like(scores) if batch.ignore is None else (~batch.ignore)[pairs[:, 0]][None].float()
    return {
        "bce": binary_cross_entropy(scores, masks, known),
        "dice": dice(scores, masks, known, smoothing=recipe.dice_smoothing),
    }


def weak_loss(similarity: Tensor, batch: Batch, recipe: DataRecipe) -> Tensor:
    """Return the loss of words without a mask: each must win the best pixels of its box over absent words."""
    rows, columns = similarity.shape[-2:]
    present = batch_presence(batch)  # (B, N)
    terms = []
    guards = guard(batch)
    maps = similarity.unbind()  # the gradient of a slice is as large as what it is cut from
    for weak in batch.boxes:
        left, top, right, bottom = weak.box
        x0, y0 = min(int(left * columns), columns - 1), min(int(top * rows), rows - 1)
        x1, y1 = max(x0 + 1, round(right * columns)), max(y0 + 1, round(bottom * rows))
        patch = maps[weak.photo][:, y0:y1, x0:x1].flatten(1)  # (N, area)
        count = max(1, int(recipe.weak_top * patch.shape[1]))
        pooled = patch.topk(count, dim=1).values.mean(1)  # (N,)
        silent = guards[weak.photo, weak.word] | present[weak.photo] | ~batch.valid[weak.photo]
        silent[weak.word] = False
        logits = (pooled / recipe.temperature).masked_fill(silent, SILENT)
        terms.append(logits.logsumexp(0) - logits[weak.word])  # the cross-entropy
    return torch.stack(terms).mean()


def batch_presence(batch: Batch) -> Tensor:
    """Return which words have a mask in each square: (B, N) bool."""
    present = torch.zeros_like(batch.valid)
    present[batch.pairs[:, 0], batch.pairs[:, 1]] = True
    if batch.labels is not None:
        count = present.shape[1]
        flat = batch.labels.flatten(1).clamp(min=-1) % (count + 1)  # unknown and other go to the last place
        seen = torch.zeros(len(present), count + 1, dtype=torch.bool, device=present.device)
        present |= seen.scatter(1, flat, torch.ones_like(flat, dtype=torch.bool))[:, :count]
    return present
