"""Equations 10, 11 and 15 by hand and by loop."""

from __future__ import annotations

import math

import pytest
import torch

from ovsdino.network.losses import binary_cross_entropy, cosine_alignment, dice, mse_alignment


def test_cross_entropy_counts_only_what_is_known() -> None:
    logits = torch.tensor([[[[0.0, 3.0]], [[-1.0, 50.0]]]])  # (1, 2, 1, 2)
    masks = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    valid = torch.tensor([[[[1.0, 1.0]], [[1.0, 0.0]]]])
    expected = (math.log(2) + math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 3
    assert float(binary_cross_entropy(logits, masks, valid)) == pytest.approx(expected, rel=1e-5)


def test_dice_equals_a_loop_over_present_classes() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    masks = (torch.rand(2, 3, 4, 5) > 0.5).float()
    masks[0, 1] = masks[1, 2] = 0
    valid = (torch.rand(2, 3, 4, 5) > 0.2).float()
    terms = []
    for b in range(2):
        for n in range(3):
            if masks[b, n].any():
                p = torch.sigmoid(logits[b, n])[valid[b, n] > 0]
                t = masks[b, n][valid[b, n] > 0]
                terms.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    assert float(dice(logits, masks, valid)) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-5)


def test_dice_is_smoothed_by_what_is_asked_for() -> None:
    logits, masks = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    for smoothing in (0.0, 0.5, 1.0):
        expected = 1 - (2 * 0.5 + smoothing) / (4 * 0.5 + 1 + smoothing)
        found = dice(logits, masks, torch.ones_like(masks), smoothing=smoothing)
        assert float(found) == pytest.approx(expected)


def test_perfect_and_empty_masks() -> None:
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :4] = 1
    valid = torch.ones_like(masks)
    assert float(dice(40 * masks - 20, masks, valid)) == pytest.approx(0, abs=1e-4)
    assert float(dice(masks, torch.zeros_like(masks), valid)) == 0
    assert float(binary_cross_entropy(masks, masks, torch.zeros_like(masks))) == 0


def test_alignment_equals_a_loop_over_cells() -> None:
    torch.manual_seed(1)
    structure, target = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4).half()
    cosines, distances = [], []
    for b in range(2):
        for y in range(3):
            for x in range(4):
                f, s = structure[b, :, y, x].tolist(), target[b, :, y, x].tolist()
                dot = sum(p * q for p, q in zip(f, s, strict=True))
                cosines.append(dot / math.sqrt(sum(p * p for p in f) * sum(q * q for q in s)))
                distances.append(sum((p - q) ** 2 for p, q in zip(f, s, strict=True)) / 5)
    assert float(cosine_alignment(structure, target)) == pytest.approx(1 - sum(cosines) / 24, rel=1e-5)
    assert float(mse_alignment(structure, target)) == pytest.approx(sum(distances) / 24, rel=1e-5)


def test_alignment_of_equal_opposite_and_scaled_maps() -> None:
    f = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    assert float(cosine_alignment(f, 2 * f)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_alignment(f, -f)) == pytest.approx(2, abs=1e-6)
    assert float(mse_alignment(f, 2 * f)) == pytest.approx((9 + 16) / 2)
    assert float(mse_alignment(f, f)) == 0
    flat = torch.zeros_like(f)
    assert torch.isfinite(cosine_alignment(f, flat))
