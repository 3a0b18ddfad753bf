"""The Semantic Prior Encoder is SAM's; the decoder is what its formula says."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from ovsdino.dinov3seg.config import Dinov3segConfig, PriorConfig
from ovsdino.dinov3seg.decoder import UpsamplingDecoder, UpsamplingStage
from ovsdino.dinov3seg.semantic_prior import Prior, SemanticPrior
from tests.dinov3seg.small import SMALL, randomise


def small_prior(**changes: object) -> SemanticPrior:
    assert SMALL.prior is not None
    torch.manual_seed(0)
    prior = SemanticPrior(replace(SMALL.prior, **changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return prior


@torch.no_grad()
def test_last_features_and_taps_are_sams_own() -> None:
    prior = small_prior(size=128)
    image = torch.randn(2, 3, 128, 128)
    outputs: list[torch.Tensor] = []
    for block in prior.encoder.blocks:
        block.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    expected = prior.encoder(image)
    taps = [output.permute(0, 3, 1, 2) for output in outputs]
    seen = prior(image)
    torch.testing.assert_close(seen.last, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.first, taps[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.second, taps[1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_image_of_another_size_is_brought_to_sams() -> None:
    prior = small_prior()  # reads 96 px, its positions were made for 128
    image = torch.randn(1, 3, 160, 160)
    seen = prior(image)
    assert seen.last.shape == (1, 8, 6, 6)
    resized = F.interpolate(image, (96, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen.last, prior(resized).last)


def test_a_frozen_prior_has_no_gradient_and_an_open_one_has() -> None:
    image = torch.randn(1, 3, 96, 96)
    assert not small_prior(frozen=True)(image).last.requires_grad
    seen = small_prior(frozen=False)(image)
    (seen.last.sum() + seen.second.sum()).backward()
    default = PriorConfig()
    assert default.frozen
    assert default.taps == (5, 11)


@torch.no_grad()
def test_a_stage_doubles_and_convolves_the_map_beside_its_guidance() -> None:
    torch.manual_seed(1)
    stage = UpsamplingStage(12, 8, prior=6, guidance=4, group=4)
    randomise(stage)
    x, prior = torch.randn(6, 12, 5, 5), torch.randn(2, 6, 10, 10)  # 2 photos of 3 classes
    assert isinstance(stage.project, nn.Conv2d)
    guidance = F.conv2d(prior, stage.project.weight, stage.project.bias, padding=1).clamp(min=0)
    for number in range(6):
        up = F.conv_transpose2d(x[number : number + 1], stage.up.weight, stage.up.bias, stride=2)
        y = torch.cat([up, guidance[number // 3][None]], dim=1)
        for at in (0, 3):
            norm = stage.convolve[at + 1]
            y = F.conv2d(y, stage.convolve[at].weight, padding=1)  # type: ignore[arg-type]
            y = F.group_norm(y, 2, norm.weight, norm.bias).clamp(min=0)  # type: ignore[arg-type]
        torch.testing.assert_close(stage(x, stage.encode(prior))[number], y[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_decoder_treats_each_class_by_itself(config: Dinov3segConfig) -> None:
    torch.manual_seed(2)
    decoder = UpsamplingDecoder(config).eval()
    randomise(decoder)
    x = torch.randn(2, 3, config.width, 6, 6)
    prior = Prior(torch.randn(2, 8, 6, 6), torch.randn(2, 16, 6, 6), torch.randn(2, 16, 6, 6))
    logits = decoder(x, prior)
    assert logits.shape == (2, 3, 24, 24)
    alone = Prior(*(part[1:] for part in prior))
    torch.testing.assert_close(decoder(x[1:, 2:], alone)[0, 0], logits[1, 2], rtol=1e-4, atol=1e-5)
    other = prior._replace(first=-prior.first)
    assert not torch.allclose(decoder(x, other), logits, atol=1e-3)
