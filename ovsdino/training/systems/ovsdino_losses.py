"""What a batch teaches: which words are right, wrong or undecided at each pixel, and the loss terms."""

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
    """Return the loss terms of a batch, not weighted; those that it says nothing of are left out.

    Source: OVS-DINO, eq. 10, 11 and 15; the cross-entropy over the batch's words and the words without a
    mask are ours.

    Args:
        model: the network; without an encoder it gets SAM's features as its structure map.
        batch: on the model's device.
        recipe: what the batch was made with.

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
    terms |= mask_terms(model, similarity, batch, recipe)
    if batch.boxes:
        terms["weak"] = weak_loss(similarity, batch, recipe)
    return terms


def mask_terms(model: OVSDINO, similarity: Tensor, batch: Batch, recipe: DataRecipe) -> dict[str, Tensor]:
    """Return Dice, BCE and cross-entropy; photos of both kinds of masks count by their number."""
    if batch.labels is None:
        return pair_terms(model, similarity, batch, recipe)
    terms = label_terms(model, similarity, batch, batch.labels, recipe)
    share = float(batch.exclusive.float().mean())
    if share == 1:
        return terms
    for name, value in pair_terms(model, similarity, batch, recipe).items():
        terms[name] = share * terms[name] + (1 - share) * value
    return terms


def guard(batch: Batch) -> Tensor:
    """Say for each photo which words must not compete with each other: (B, N, N) bool.

    Synonyms, wider and narrower words; and words that mean nearly the same, unless the photo's closed list
    names both: a road must be told from a sidewalk, however alike the words are.
    """
    told_apart = batch.closed[:, :, None] & batch.closed[:, None, :]  # (B, N, N)
    return batch.related | batch.similar & ~told_apart


@dataclass(frozen=True)
class Decided:
    """What a label map says of each word at each pixel; (B, N, s, s) bool each."""

    masks: Tensor  # the word is right
    undecided: Tensor  # the word must not compete
    valid: Tensor  # the word is right or wrong


def decide(batch: Batch, labels: Tensor) -> Decided:
    """Say what masks that partition a photo decide.

    Inside a mask its own word is right and any other is wrong unless guarded; where the photo holds none of
    its closed words, these are wrong; of unknown pixels nothing is said.

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
    model: OVSDINO, similarity: Tensor, batch: Batch, labels: Tensor, recipe: DataRecipe
) -> dict[str, Tensor]:
    """Return the terms of masks that partition a photo."""
    dense = F.interpolate(similarity, labels.shape[1:], mode="bilinear", align_corners=False)  # (B, N, s, s)
    decided = decide(batch, labels)
    scores = model.head.scale * dense + model.head.bias
    truth, valid = decided.masks.float(), decided.valid.float()
    return {
        "cross_entropy": cross_entropy(dense, labels, decided, recipe),
        "bce": binary_cross_entropy(scores, truth, valid),
        "dice": dice(scores, truth, valid, smoothing=recipe.dice_smoothing),
    }


def words_cross_entropy(similarity: Tensor, batch: Batch, labels: Tensor, recipe: DataRecipe) -> Tensor:
    """Return the cross-entropy over the batch's words of a map of cosines (B, N, h, w)."""
    dense = F.interpolate(similarity, labels.shape[1:], mode="bilinear", align_corners=False)  # (B, N, s, s)
    return cross_entropy(dense, labels, decide(batch, labels), recipe)


def cross_entropy(dense: Tensor, labels: Tensor, decided: Decided, recipe: DataRecipe) -> Tensor:
    """Return the cross-entropy of cosines (B, N, s, s) at the known pixels of labels (B, s, s)."""
    known = labels >= 0
    logits = (dense / recipe.temperature).masked_fill(decided.undecided, SILENT)
    target = labels.where(known, UNKNOWN)
    count = known.sum().clamp(min=1)  # a batch without a known pixel has no cross-entropy
    weight = word_weights(target, dense.shape[1], recipe.balance)
    return F.cross_entropy(logits, target, weight, ignore_index=UNKNOWN, reduction="sum") / count


def word_weights(target: Tensor, count: int, balance: float) -> Tensor:
    """Weigh a batch's words so that those of few pixels are not drowned by walls and sky.

    A word of n pixels weighs n ** -balance, no more than ten times the least; the mean over the pixels is 1.

    Shape: target (B, s, s), negative where nothing is known -> (count,).
    """
    pixels = torch.bincount(target[target >= 0], minlength=count).float()  # (N,)
    weight = pixels.clamp(min=1).pow(-balance)
    weight = weight.clamp(max=10 * weight.min())
    return weight * pixels.sum().clamp(min=1) / (weight * pixels).sum().clamp(min=1e-12)


def pair_terms(model: OVSDINO, similarity: Tensor, batch: Batch, recipe: DataRecipe) -> dict[str, Tensor]:
    """Return the paper's terms: a mask for each of a photo's words, and words that it lacks.

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
    said = torch.ones_like(scores) if batch.ignore is None else (~batch.ignore)[pairs[:, 0]][None].float()
    return {
        "bce": binary_cross_entropy(scores, masks, said),
        "dice": dice(scores, masks, said, smoothing=recipe.dice_smoothing),
    }


def weak_loss(similarity: Tensor, batch: Batch, recipe: DataRecipe) -> Tensor:
    """Ask that a word known to be in a box wins the box's best pixels over words that the photo lacks."""
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
    """Say which words have a mask in each square: (B, N) bool."""
    present = torch.zeros_like(batch.valid)
    present[batch.pairs[:, 0], batch.pairs[:, 1]] = True
    if batch.labels is not None:
        count = present.shape[1]
        flat = batch.labels.flatten(1).clamp(min=-1) % (count + 1)  # unknown and other go to the last place
        seen = torch.zeros(len(present), count + 1, dtype=torch.bool, device=present.device)
        present |= seen.scatter(1, flat, torch.ones_like(flat, dtype=torch.bool))[:, :count]
    return present
