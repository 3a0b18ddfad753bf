"""dinov3.seg's loss terms against loops over photos, words and pixels."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovsdino.dinov3seg.correlation import text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.training.data.batch import OTHER, UNKNOWN, Batch
from ovsdino.training.data.dataset import PhotoMismatchError
from ovsdino.training.data_recipe import DINOV3SEG_DATA, DINOV3SEG_TINY_DATA, LossWeights
from ovsdino.training.systems.dinov3seg_losses import dinov3seg_loss_terms, one_hot_bce
from tests.training.dinov3seg_run import SMALL_SEG

WORDS = ("cat", "tabby", "dog", "grass", "sky")
WEIGHTS = LossWeights(align_cosine=0.0, align_mse=0.0, dice=0.0, bce=1.0, cross_entropy=0.5)


@pytest.fixture
def batch() -> Batch:
    """Two photos of 32 px; cat and tabby are related, the second photo is not judged by dog."""
    torch.manual_seed(0)
    labels = torch.randint(-2, 5, (2, 8, 8))
    assert {UNKNOWN, OTHER} < set(labels.flatten().tolist())
    count = len(WORDS)
    related, valid = torch.zeros(count, count, dtype=torch.bool), torch.ones(2, count, dtype=torch.bool)
    related[0, 1] = related[1, 0] = True
    valid[1, 2] = False
    closed = torch.tensor([[True, False, True, True, False]] * 2)
    return Batch(
        pixels=torch.randn(2, 3, 32, 32),
        labels=labels,
        exclusive=torch.ones(2, dtype=torch.bool),
        pairs=torch.zeros(0, 2, dtype=torch.long),
        masks=torch.zeros(0, 8, 8, dtype=torch.uint8),
        ignore=None,
        words=WORDS,
        text=torch.randint(1, 400, (count, 6)),
        valid=valid,
        closed=closed,
        related=related,
        similar=torch.zeros_like(related),
        boxes=(),
        photos=("a", "b"),
    )


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def upsampled(logits, side):
    return F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("decoded", [None, (0, 2, 3)])
def test_one_hot_targets_count_every_pixel(batch, decoded):
    """CAT-Seg's: all words at all pixels, and where nothing is said all of them are absent."""
    words = list(decoded or range(len(WORDS)))
    batch = replace(batch, decoded=None if decoded is None else torch.tensor(decoded))
    logits = torch.randn(2, len(words), 4, 4)
    dense, total, count = upsampled(logits, 8), 0.0, 0
    for photo in range(2):
        for place, word in enumerate(words):
            for row in range(8):
                for column in range(8):
                    logit = float(dense[photo, place, row, column])
                    right = int(batch.labels[photo, row, column]) == word
                    total += softplus(-logit) if right else softplus(logit)
                    count += 1
    found = one_hot_bce(logits, batch, labels=batch.labels, recipe=DINOV3SEG_DATA)
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_guarded_targets_leave_out_what_nobody_knows(batch):
    words = [0, 2, 4]
    batch = replace(batch, decoded=torch.tensor(words))
    logits = torch.randn(2, len(words), 4, 4)
    dense, total, count = upsampled(logits, 8), 0.0, 0
    for photo in range(2):
        for place, word in enumerate(words):
            for row in range(8):
                for column in range(8):
                    label = int(batch.labels[photo, row, column])
                    if label == UNKNOWN or not batch.valid[photo, word]:
                        continue
                    if label == OTHER and not batch.closed[photo, word]:
                        continue
                    if label >= 0 and batch.related[label, word]:
                        continue
                    logit = float(dense[photo, place, row, column])
                    total += softplus(-logit) if label == word else softplus(logit)
                    count += 1
    found = one_hot_bce(logits, batch, labels=batch.labels, recipe=replace(DINOV3SEG_TINY_DATA, decoded=3))
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_both_terms_come_from_one_pass_and_reach_both_towers(batch):
    torch.manual_seed(1)
    model = Dinov3Seg(SMALL_SEG)
    recipe = replace(DINOV3SEG_TINY_DATA, balance=0.0)
    batch = replace(batch, decoded=torch.tensor([1, 3]), valid=torch.ones_like(batch.valid))
    terms = dinov3seg_loss_terms(model, batch, recipe=recipe, weights=WEIGHTS)
    (terms["bce"] + terms["cross_entropy"]).backward()
    assert model.vlm.text.token_embedding.weight.grad.abs().sum() > 0
    assert model.vlm.vision.backbone.patch_embed.proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        text = model.vlm.text(batch.text)
        patches = model.refine_patches(batch.pixels, model.vlm.vision(batch.pixels))
        logits = model.decode(patches, model.see_prior(batch.pixels), text=text[[1, 3]])  # (B, K, 8, 8)
        assert terms["bce"].item() == pytest.approx(
            float(one_hot_bce(logits, batch, labels=batch.labels, recipe=recipe))
        )
        halves, unit = text_halves(text, model.config), F.normalize(patches, dim=1)
        means = sum(torch.einsum("bdhw,nd->bnhw", unit, halves[:, half]) for half in (0, 1)) / 2
    scores, total, count = upsampled(means, 8) / recipe.temperature, 0.0, 0
    for photo in range(2):
        for row in range(8):
            for column in range(8):
                label = int(batch.labels[photo, row, column])
                if label >= 0:
                    here = scores[photo, :, row, column]
                    rivals = here[~batch.related[label]]
                    total += float(rivals.logsumexp(0) - here[label])
                    count += 1
    assert terms["cross_entropy"].item() == pytest.approx(total / count, rel=1e-4)


def test_a_term_without_a_weight_is_not_computed(batch, monkeypatch):
    model = Dinov3Seg(SMALL_SEG)
    monkeypatch.setattr(model, "decode", None)  # would fail
    terms = dinov3seg_loss_terms(model, batch, recipe=DINOV3SEG_TINY_DATA, weights=replace(WEIGHTS, bce=0.0))
    assert list(terms) == ["cross_entropy"]


def test_masks_that_overlap_are_refused(batch):
    with pytest.raises(PhotoMismatchError, match="a, b: masks that may overlap"):
        dinov3seg_loss_terms(
            Dinov3Seg(SMALL_SEG), replace(batch, labels=None), recipe=DINOV3SEG_DATA, weights=WEIGHTS
        )
