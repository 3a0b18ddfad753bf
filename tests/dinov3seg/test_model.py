"""The composed network: order and padding of classes, the best 256, ablations, gradients, configuration."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.config import Dinov3segConfig, VlmConfig
from ovsdino.dinov3seg.correlation import best_classes, correlate, put_classes, take_classes, text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import PRESETS, TINY, VITL16
from ovsdino.network.config import IMAGENET_MEAN, IMAGENET_STD
from tests.dinov3seg.small import SMALL, randomise

CLASSES = 6


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(10))


@pytest.fixture
def text() -> Tensor:
    return torch.randn(CLASSES, SMALL.vlm.text_width, generator=torch.Generator().manual_seed(11))


def test_costs_are_cosines_with_each_half(config: Dinov3segConfig, text: Tensor) -> None:
    patches = torch.randn(2, 192, 3, 4)
    costs = correlate(patches, text_halves(text, config))
    assert costs.shape == (2, CLASSES, 2, 3, 4)
    for half, columns in enumerate((slice(0, 192), slice(192, 384))):
        expected = F.cosine_similarity(patches[1, :, 2, 3], text[4, columns], dim=0)
        torch.testing.assert_close(costs[1, 4, half, 2, 3], expected)
    for half, columns in (("global", slice(0, 192)), ("local", slice(192, 384))):
        alone = text_halves(text, replace(config, halves=(half,)))  # type: ignore[arg-type]
        torch.testing.assert_close(alone[:, 0], F.normalize(text[:, columns], dim=-1))


def test_the_best_classes_of_each_photo_are_those_of_its_best_patch() -> None:
    costs = torch.zeros(2, 5, 2, 2, 2)
    costs[0, 3, 1, 0, 1], costs[0, 1, 0, 1, 1], costs[0, 4, 0, 0, 0] = 0.9, 0.5, 0.4
    costs[1, 0, 0, 0, 0], costs[1, 4, 1, 1, 0] = 0.2, 0.7
    everyone = torch.ones(5, dtype=torch.bool)
    chosen = best_classes(costs, everyone, 2)
    assert [set(row) for row in chosen.tolist()] == [{1, 3}, {0, 4}]
    absent = everyone.clone()
    absent[3] = False
    assert set(best_classes(costs, absent, 2)[0].tolist()) == {1, 4}
    values = torch.randn(2, 5, 3)
    back = put_classes(take_classes(values, chosen), chosen, classes=5, absent=-7.0)
    for photo in range(2):
        for number in range(5):
            kept = number in chosen[photo].tolist()
            expected = values[photo, number] if kept else torch.full((3,), -7.0)
            torch.testing.assert_close(back[photo, number], expected)


@torch.no_grad()
def test_logits_move_with_their_classes(model: Dinov3Seg, pixels: Tensor, text: Tensor) -> None:
    logits = model(pixels, text)
    assert logits.shape == (2, CLASSES, 24, 24)
    assert logits.std() > 0.01
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(model(pixels, text[order]), logits[:, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_classes_change_nothing(model: Dinov3Seg, pixels: Tensor, text: Tensor) -> None:
    """More rows than the padding length (8), too: absent ones are never among the best."""
    logits = model(pixels, text)
    for rows in (2, 7):
        padded = torch.cat([text, torch.randn(rows, text.shape[1])])
        present = torch.arange(CLASSES + rows) < CLASSES
        found = model(pixels, padded, present)
        torch.testing.assert_close(found[:, :CLASSES], logits, rtol=1e-4, atol=1e-5)
        assert (found[:, CLASSES:] == model.config.absent_logit).all()
    # Without saying so, they are classes like others, and the others see them.
    assert not torch.allclose(model(pixels, padded)[:, :CLASSES], logits, atol=1e-4)


@torch.no_grad()
def test_of_many_classes_the_best_are_refined_as_if_alone(model: Dinov3Seg, pixels: Tensor) -> None:
    many = torch.randn(20, model.config.vlm.text_width)
    patches = model.refine_patches(pixels, model.vlm.vision(pixels))
    costs = correlate(patches, text_halves(many, model.config))
    logits = model(pixels, many)
    for photo in range(2):
        best = costs[photo].amax((1, 2, 3)).argsort(descending=True)[:8].sort().values
        kept = (logits[photo] != model.config.absent_logit).flatten(1).any(1).nonzero().flatten()
        assert kept.tolist() == best.tolist()
        alone = model(pixels[photo : photo + 1], many[best])
        torch.testing.assert_close(logits[photo, best], alone[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_forward_is_the_sum_of_its_parts(model: Dinov3Seg, pixels: Tensor, text: Tensor) -> None:
    """Re-stated for fewer classes than the padding length, with torch's own convolution of each class."""
    config = model.config
    image = (
        pixels * torch.tensor(config.vlm.std)[:, None, None] + torch.tensor(config.vlm.mean)[:, None, None]
    )
    image = (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    patches = model.early[0](image, model.vlm.vision(pixels))
    assert model.prior is not None
    prior = model.prior(pixels)
    halves = F.normalize(text.reshape(CLASSES, 2, 192), dim=-1)
    costs = torch.einsum("bdhw,npd->bnphw", F.normalize(patches, dim=1), halves)
    embedding = model.cost_embedding
    x = torch.stack([F.conv2d(costs[:, n], embedding.weight, embedding.bias, padding=3) for n in range(6)], 1)
    assert model.image_guidance is not None
    assert model.text_guidance is not None
    last = F.interpolate(prior.last, patches.shape[-2:], mode="bilinear")
    look = F.relu(model.image_guidance(last))
    words = F.relu(model.text_guidance(halves.flatten(1)))[None].expand(2, -1, -1)
    for late in model.late:
        x = late.classes(late.space(x, look), words, torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(model(pixels, text), model.decoder(x, prior), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pixels_of_any_normalisation_reach_sam_in_its_own(config: Dinov3segConfig) -> None:
    photo = torch.rand(1, 3, 4, 4)
    other = replace(config, vlm=replace(config.vlm, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2)))
    pixels = (photo - torch.tensor((0.5, 0.4, 0.3))[:, None, None]) / torch.tensor((0.5, 0.25, 0.2))[
        :, None, None
    ]
    expected = photo - torch.tensor(IMAGENET_MEAN)[:, None, None]
    expected = expected / torch.tensor(IMAGENET_STD)[:, None, None]
    with torch.device("meta"):
        model = Dinov3Seg(other)
    torch.testing.assert_close(model.to_imagenet(pixels), expected)


ABLATIONS: dict[str, dict[str, Any]] = {
    "global": {"halves": ("global",)},
    "local": {"halves": ("local",)},
    "no-early": {"early": False},
    "no-late": {"late": False},
    "no-prior": {"prior": None},
}


@torch.no_grad()
@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_runs_and_leaves_out_its_part(name: str, pixels: Tensor, text: Tensor) -> None:
    torch.manual_seed(1)
    model = Dinov3Seg(replace(SMALL, **ABLATIONS[name])).eval()
    randomise(model.decoder)
    logits = model(pixels, text)
    assert logits.shape == (2, CLASSES, 24, 24)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(model(pixels, text[order]), logits[:, order], rtol=1e-4, atol=1e-5)
    there = {
        part for part in ("early.", "late.", "prior.") if any(k.startswith(part) for k in model.state_dict())
    }
    assert {"early.", "late.", "prior."} - there == {
        "no-early": {"early."},
        "no-late": {"late."},
        "no-prior": {"prior."},
    }.get(name, set())
    assert model.cost_embedding.in_channels == (1 if name in {"global", "local"} else 2)
    blind = text.clone()
    blind[:, 192:] = torch.randn(CLASSES, 192)  # another local half
    assert torch.equal(model(pixels, blind), logits) == (name == "global")


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("dinov3seg-vitl16-")])
def test_a_preset_of_an_ablation_changes_one_field(name: str) -> None:
    changed = {
        f.name for f in fields(Dinov3segConfig) if getattr(PRESETS[name], f.name) != getattr(VITL16, f.name)
    }
    expected = ABLATIONS[name.removeprefix("dinov3seg-vitl16-")]
    assert changed == {"name", *expected}
    assert all(getattr(PRESETS[name], field) == value for field, value in expected.items())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name: str) -> None:
    with torch.device("meta"):
        model = Dinov3Seg(PRESETS[name])
    assert model.config.name == name
    assert Dinov3segConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config


def test_every_part_that_learns_gets_a_gradient(model: Dinov3Seg, pixels: Tensor) -> None:
    model.train()
    text = model.vlm.text(torch.randint(1, 100, (CLASSES, 5)))
    target = torch.zeros(2, CLASSES, 24, 24)
    F.binary_cross_entropy_with_logits(model(pixels, text), target).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    assert frozen == (
        {f"prior.{name}" for name, _ in model.prior.named_parameters()}
        if model.prior and model.config.prior and model.config.prior.frozen
        else set()
    )


@torch.no_grad()
def test_the_tiny_preset_labels_a_photo_of_its_crop() -> None:
    model = Dinov3Seg(TINY).eval()
    logits = model(torch.randn(1, 3, TINY.crop, TINY.crop), torch.randn(4, 384))
    assert logits.shape == (1, 4, TINY.crop // 4, TINY.crop // 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"halves": ()}, "2 text halves, got halves=\\(\\)"),
        ({"halves": ("local", "local")}, "2 text halves"),
        ({"width": 15}, "width must be a multiple of 2, got 15"),
        ({"early_width": 18}, "early_width must be a multiple of 4, got 18"),
        ({"crop": 100}, "multiples of patch_size=16, got 100"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_fields_of_another_configuration_are_refused() -> None:
    raw = SMALL.to_dict()
    raw["prior"]["colour"] = "blue"
    with pytest.raises(ValueError, match=r"PriorConfig: missing or unknown fields \['colour'\]"):
        Dinov3segConfig.from_dict(raw)
    with pytest.raises(ValueError, match="text_width must be twice backbone_width=192"):
        VlmConfig(backbone_width=192)
