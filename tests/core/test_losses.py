"""Equation 15 by hand and by loop."""

from __future__ import annotations

import math

import pytest
import torch

from ovsdino.losses import binary_cross_entropy, dice


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


def test_perfect_and_empty_masks() -> None:
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :4] = 1
    valid = torch.ones_like(masks)
    assert float(dice(40 * masks - 20, masks, valid)) == pytest.approx(0, abs=1e-4)
    assert float(dice(masks, torch.zeros_like(masks), valid)) == 0
    assert float(binary_cross_entropy(masks, masks, torch.zeros_like(masks))) == 0
