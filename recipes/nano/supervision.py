"""What a batch of squares teaches: which words are right, wrong or undecided at each pixel; the losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from concepts import FIRST, OTHER, UNKNOWN, Concepts
from photos import Sample
from torch import Tensor

from ovsdino.head import cosine
from ovsdino.losses import binary_cross_entropy, dice
from ovsdino.model import OVSDINO

RELATED = 0.62  # cosine of two concepts' words above which neither is the other's negative
DISTRACTORS = 64  # words of no photo that join each batch as negatives
TEMPERATURE = 0.05  # of the cross-entropy over the batch's words
TOP = 0.25  # share of a box that a word without a mask must fill
WEIGHTS = {"ce": 1.0, "bce": 2.0, "dice": 0.5, "word": 0.3}


@dataclass(frozen=True)
class Words:
    """Every concept's names as embeddings, and which concepts may not be told apart."""

    embeddings: list[Tensor]  # a concept: (names, D)
    related: Tensor  # (M, M) bool, the diagonal left out
    taught: int  # the first so many concepts have masks from the teachers


def embed_concepts(concepts: Concepts, bank: Tensor) -> Words:
    """Split a bank of name embeddings (all names, D) by concept and find the related ones."""
    counts = [len(c.names) for c in concepts.concepts]
    embeddings = list(bank.split(counts))
    first = torch.stack([e[0] for e in embeddings])
    related = first @ first.T > RELATED
    names: dict[str, list[int]] = {}
    for index, concept in enumerate(concepts.concepts):
        for name in concept.names:
            names.setdefault(name, []).append(index)
        if concept.parent is not None:
            related[index, concept.parent - FIRST] = related[concept.parent - FIRST, index] = True
    for same in names.values():
        related[torch.tensor(same)[:, None], torch.tensor(same)] = True
    related.fill_diagonal_(False)
    return Words(embeddings, related, concepts.taught)


def draw_pool(batch: Sample, words: Words, generator: torch.Generator) -> Tensor:
    """Choose the batch's words: those present, all that the teachers know, and distractors: (N,) indices."""
    present = torch.cat([batch.labels.flatten(), batch.words[..., 4].flatten().long()]).unique()
    chance = torch.randperm(len(words.embeddings), generator=generator)[:DISTRACTORS]
    return torch.cat([present[present >= FIRST] - FIRST, torch.arange(words.taught), chance]).unique()


def losses(model: OVSDINO, batch: Sample, words: Words, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the loss terms of one batch."""
    pool = draw_pool(batch, words, generator)
    picks = [int(torch.randint(len(words.embeddings[i]), (1,), generator=generator)) for i in pool]
    text = torch.stack([words.embeddings[i][pick] for i, pick in zip(pool.tolist(), picks, strict=True)])
    similarity = cosine(model(batch.pixels), text)  # (B, N, h, w)
    dense = F.interpolate(similarity, batch.labels.shape[1:], mode="bilinear", align_corners=False)
    place = torch.full((len(words.embeddings) + FIRST,), -1)
    place[pool + FIRST] = torch.arange(len(pool))
    target = place[batch.labels]  # (B, H, W) index into the pool, -1 for unknown and other
    guard = words.related[pool][:, pool]  # (N, N)
    return {
        **mask_losses(model, dense, target, batch.labels, guard, pool < words.taught),
        "word": word_loss(similarity, batch, target, place, guard),
    }


def mask_losses(
    model: OVSDINO, dense: Tensor, target: Tensor, labels: Tensor, guard: Tensor, taught: Tensor
) -> dict[str, Tensor]:
    """Return cross-entropy over the pool, and the paper's BCE and Dice, with undecided words left out."""
    known = target >= 0
    undecided = guard[target.clamp(min=0)].permute(0, 3, 1, 2)  # (B, N, H, W)
    logits = (dense / TEMPERATURE).masked_fill(undecided, -30.0)
    ce = F.cross_entropy(logits, target, ignore_index=-1)
    masks = F.one_hot(target.clamp(min=0), dense.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    other = (labels == OTHER)[:, None] & taught[None, :, None, None]
    valid = ((labels != UNKNOWN) & known)[:, None] & ~undecided | other
    scores = model.head.scale * dense + model.head.bias
    masks, valid = masks.float(), valid.float()
    return {"ce": ce, "bce": binary_cross_entropy(scores, masks, valid), "dice": dice(scores, masks, valid)}


def word_loss(similarity: Tensor, batch: Sample, target: Tensor, place: Tensor, guard: Tensor) -> Tensor:
    """Ask that a word known to be in a box wins the box's best pixels over words that the photo lacks."""
    terms = []
    rows, columns = similarity.shape[-2:]
    for photo, slot in torch.nonzero(batch.words[..., 4] >= 0).tolist():
        left, top, right, bottom, number = batch.words[photo, slot].tolist()
        x0, y0 = int(left * columns), int(top * rows)
        x1, y1 = max(x0 + 1, round(right * columns)), max(y0 + 1, round(bottom * rows))
        patch = similarity[photo, :, y0:y1, x0:x1].flatten(1)  # (N, area)
        pooled = patch.topk(max(1, int(TOP * patch.shape[1])), dim=1).values.mean(1)  # (N,)
        index = int(place[int(number)])
        silent = guard[index].clone()
        present = target[photo].unique()
        silent[present[present >= 0]] = True
        silent[index] = False
        logits = (pooled / TEMPERATURE).masked_fill(silent, -30.0)
        terms.append(F.cross_entropy(logits[None], torch.tensor([index])))
    return torch.stack(terms).mean() if terms else similarity.new_zeros(())
