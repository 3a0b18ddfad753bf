"""Early refinement against AnyUp: the released code's order of operations, and the paper's formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg import early_refinement
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.early_refinement import EarlyRefinement, FeatureUnification, ImageRope, window_reach
from ovsdino.dinov3seg.presets import VITL16
from tests.dinov3seg.small import randomise


def test_the_window_is_5_patches_wide_on_24_and_9_on_40() -> None:
    for side, width in ((24, 5), (40, 9)):
        reach = window_reach(side, VITL16.early_window)
        assert reach[side // 2].sum() == width
        assert reach[side // 2, side // 2 - width // 2]
        assert reach[0].nonzero().flatten().tolist() == list(range(width // 2 + 1))  # cut off at the border
        torch.testing.assert_close(reach, reach.flip(0, 1))


@torch.no_grad()
def test_rope_turns_pairs_of_channels_by_place_times_frequency() -> None:
    rope = ImageRope(8, theta=100.0)
    x = torch.randn(1, 8, 3, 5)
    out = rope(x)
    for row, column in ((0, 0), (1, 3), (2, 4)):
        down, across = row / 2, column / 4  # from 0 to 1
        for channel in range(4):
            # Channels 0 to 3 carry the rows' frequencies; their partners, 4 to 7, carry the columns'.
            frequency = 2 * math.pi * 100.0 ** -(channel % 2)
            first, second = x[0, channel, row, column], x[0, channel + 4, row, column]
            expected = first * math.cos(down * frequency) - second * math.sin(down * frequency)
            assert float(out[0, channel, row, column]) == pytest.approx(float(expected), abs=1e-5)
            expected = second * math.cos(across * frequency) + first * math.sin(across * frequency)
            assert float(out[0, channel + 4, row, column]) == pytest.approx(float(expected), abs=1e-5)


def test_the_formula_is_a_softmax_over_kernels_for_each_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    unification = FeatureUnification(4, kernel=3, order="formula")
    features = torch.randn(2, 7, 4, 5)
    expected = torch.zeros(2, 4, 4, 5)
    for photo in range(2):
        for row in range(4):
            for column in range(5):
                for channel in range(7):
                    answers = torch.zeros(4)
                    inside = 0
                    for i in (-1, 0, 1):
                        for j in (-1, 0, 1):
                            if 0 <= row + i < 4 and 0 <= column + j < 5:
                                inside += 1
                                value = features[photo, channel, row + i, column + j]
                                answers += value * unification.basis[:, 0, 1 + i, 1 + j].detach()
                    expected[photo, :, row, column] += (answers / inside).softmax(0) / 7
    torch.testing.assert_close(unification(features), expected)
    monkeypatch.setattr(early_refinement, "UNIFIED_AT_ONCE", 3)
    torch.testing.assert_close(unification(features), expected)


def released_unification(features: Tensor, basis: Tensor) -> Tensor:
    """The released code's order: one grouped convolution, whose output is viewed with M before D."""
    photos, channels, height, width = features.shape
    patterns, _, side, _ = basis.shape
    border = side // 2
    padded = F.pad(features, (border,) * 4, value=0)
    grouped = F.conv2d(padded, basis.repeat(channels, 1, 1, 1), groups=channels)  # (B, D * M, h, w)
    ones = F.pad(torch.ones(1, 1, height, width), (border,) * 4, value=0)
    answers = grouped / F.conv2d(ones, torch.ones(1, 1, side, side))
    viewed = answers.view(photos, patterns, channels, height, width)
    return F.softmax(viewed, dim=1).mean(dim=2)


@pytest.mark.parametrize("channels", [7, 8, 3])  # no multiple of the patterns, a multiple, fewer
@pytest.mark.parametrize("at_once", [1, 128])
@torch.no_grad()
def test_the_released_order_equals_the_released_code(
    channels: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_refinement, "UNIFIED_AT_ONCE", at_once)
    torch.manual_seed(0)
    unification = FeatureUnification(4, kernel=5, order="released")
    features = torch.randn(2, channels, 6, 5)
    expected = released_unification(features, unification.basis)
    torch.testing.assert_close(unification(features), expected, rtol=1e-5, atol=1e-6)
    formula = FeatureUnification(4, kernel=5, order="formula")
    formula.load_state_dict(unification.state_dict())
    assert (formula(features) - expected).abs().max() > 0.05  # the two orders are not the same thing


def restated(early: EarlyRefinement, config: Dinov3segConfig, image: Tensor, patches: Tensor) -> Tensor:
    """AnyUp's forward at the patches' size, with torch's attention for the weights alone, as it does."""
    height, width = patches.shape[-2:]
    places = height * width
    code = early.rope(early.image_encoder(image))
    query = F.adaptive_avg_pool2d(early.query_encoder(code), (height, width))
    key = F.adaptive_avg_pool2d(early.key_encoder(code), (height, width))
    unify, *blocks = early.key_features_encoder
    unified = released_unification(F.normalize(patches, dim=1), unify.basis)
    for block in blocks:
        unified = block(unified)
    key = early.aggregation(torch.cat([key, unified], dim=1))
    query = early.weights.context(query)
    attention = nn.MultiheadAttention(config.early_width, config.early_heads, batch_first=True)
    weights = early.weights
    with torch.no_grad():
        attention.in_proj_weight[: 2 * config.early_width] = torch.cat(
            [weights.query.weight, weights.key.weight]
        )
        attention.in_proj_bias[: 2 * config.early_width] = torch.cat([weights.query.bias, weights.key.bias])
    far = torch.ones(places, places, dtype=torch.bool)
    for at in range(places):
        row, column = (at // width + 0.5) / height, (at % width + 0.5) / width
        top, bottom = math.floor(max(row - 0.1, 0) * height), math.ceil(min(row + 0.1, 1) * height)
        left, right = math.floor(max(column - 0.1, 0) * width), math.ceil(min(column + 0.1, 1) * width)
        for i in range(top, bottom):
            for j in range(left, right):
                far[at, i * width + j] = False
    q = weights.norm_q(query.permute(0, 2, 3, 1).reshape(len(image), places, -1))
    k = weights.norm_k(key.permute(0, 2, 3, 1).reshape(len(image), places, -1))
    _, shares = attention(q, k, k, attn_mask=far, average_attn_weights=True)
    values = patches.permute(0, 2, 3, 1).reshape(len(image), places, -1)
    return (shares @ values).permute(0, 2, 1).reshape(patches.shape)


@torch.no_grad()
def test_the_whole_block_equals_the_released_forward(config: Dinov3segConfig) -> None:
    torch.manual_seed(0)
    early = EarlyRefinement(config).eval()
    randomise(early)
    image, patches = torch.randn(2, 3, 48, 80), torch.randn(2, 12, 12, 10)
    expected = restated(early, config, image, patches)
    torch.testing.assert_close(early(image, patches), expected, rtol=1e-4, atol=1e-5)
    assert (expected - patches).abs().max() > 0.5  # it does mix


@torch.no_grad()
def test_what_goes_out_is_a_mean_of_patches_and_the_image_decides_which(config: Dinov3segConfig) -> None:
    early = EarlyRefinement(config).eval()
    randomise(early)
    image = torch.randn(1, 3, 48, 48)
    constant = torch.randn(1, 12, 1, 1).expand(1, 12, 6, 6)
    torch.testing.assert_close(early(image, constant), constant, rtol=1e-5, atol=1e-5)
    patches = torch.randn(1, 12, 6, 6)
    assert not torch.allclose(early(image, patches), early(image.flip(3), patches), atol=1e-3)


@torch.no_grad()
def test_the_choices_that_are_not_known_are_choices(config: Dinov3segConfig) -> None:
    image, patches = torch.randn(1, 3, 48, 48), torch.randn(1, 12, 6, 6)
    plain = EarlyRefinement(config).eval()
    residual = EarlyRefinement(replace(config, early_residual=True)).eval()
    residual.load_state_dict(plain.state_dict())
    torch.testing.assert_close(residual(image, patches), patches + plain(image, patches))
    seeing = EarlyRefinement(replace(config, early_query_features=True)).eval()
    seeing.load_state_dict(plain.state_dict(), strict=False)
    assert seeing.query_aggregation is not None
    assert not torch.allclose(seeing(image, patches), plain(image, patches), atol=1e-4)


def test_a_shrunken_image_is_averaged_before_it_is_encoded(config: Dinov3segConfig) -> None:
    torch.manual_seed(0)
    shrunken = EarlyRefinement(replace(config, early_shrink=4))
    plain = EarlyRefinement(config)
    plain.load_state_dict(shrunken.state_dict())
    image, patches = torch.randn(2, 3, 96, 96), torch.randn(2, config.vlm.width, 6, 6)
    small = torch.unflatten(torch.unflatten(image, 3, (24, 4)), 2, (24, 4)).mean((3, 5))  # (2, 3, 24, 24)
    torch.testing.assert_close(shrunken(image, patches), plain(small, patches))
