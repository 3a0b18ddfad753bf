"""Taps, position embeddings and public checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ovsdino.network.backbone import Backbone, resize_positions
from ovsdino.network.checkpoint import CheckpointError, load_backbone
from ovsdino.network.config import PRESETS, VITB14, ModelConfig

SMALL_DINOV2 = replace(VITB14, name="small", backbone="vit_small_patch14_dinov2.lvd142m", backbone_width=384)


def official_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """The formula of the official code, for sizes in pixels and patches of 14."""
    side = math.sqrt(positions.shape[1])
    h0, w0 = height // 14 + 0.1, width // 14 + 0.1
    grid = positions.reshape(1, int(side), int(side), -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(h0 / side, w0 / side), mode="bicubic")
    return grid.permute(0, 2, 3, 1).reshape(1, -1, positions.shape[2])


@pytest.mark.parametrize(("height", "width"), [(448, 448), (224, 448), (700, 518)])
def test_positions_equal_the_official_formula(height: int, width: int) -> None:
    positions = torch.randn(1, 37 * 37, 8)
    resized = resize_positions(positions, (height // 14, width // 14), offset=0.1, antialias=False)
    torch.testing.assert_close(resized, official_positions(positions, height, width), rtol=0, atol=0)


def test_positions_of_the_native_grid_are_untouched() -> None:
    positions = torch.randn(1, 16, 8)
    assert resize_positions(positions, (4, 4), offset=0.1, antialias=False) is positions


def test_bicubic_weights_at_one_point() -> None:
    """By hand: Keys' kernel with a = -0.75 along one axis, at the sample that the offset places."""
    positions = torch.randn(1, 25, 1)
    resized = resize_positions(positions, (3, 3), offset=0.1, antialias=False)
    place = (1 + 0.5) * 5 / 3.1 - 0.5  # centre output cell in input cells
    taps = [math.floor(place) + k for k in (-1, 0, 1, 2)]

    def keys(t: float) -> float:
        t = abs(t)
        inner = 1.25 * t**3 - 2.25 * t**2 + 1
        return inner if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)

    grid = positions.reshape(5, 5)
    expected = sum(
        keys(place - i) * keys(place - j) * float(grid[min(max(i, 0), 4), min(max(j, 0), 4)])
        for i in taps
        for j in taps
    )
    assert float(resized[0, 4, 0]) == pytest.approx(expected, abs=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["nano", "ovsdino-vitb14-registers"])
def test_taps_equal_timm_at_the_native_grid(name: str) -> None:
    config = replace(PRESETS[name], position_grid=4, image_size=4 * PRESETS[name].patch_size)
    backbone = Backbone(config).eval()
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    taps, last = backbone(pixels)
    expected = backbone.vit.forward_intermediates(
        pixels, indices=[t - 1 for t in config.taps], intermediates_only=True
    )
    for tap, reference in zip(taps[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(tap, reference)
    tokens = backbone.vit.forward_features(pixels)[:, backbone.vit.num_prefix_tokens :]
    reference = tokens.transpose(1, 2).reshape_as(last)
    torch.testing.assert_close(last, reference)
    torch.testing.assert_close(taps[-1], reference)  # norm_taps="last"


@torch.inference_mode()
@pytest.mark.parametrize("norm_taps", ["none", "all"])
def test_norm_of_taps_is_a_choice(tiny: ModelConfig, norm_taps: str) -> None:
    backbone = Backbone(replace(tiny, norm_taps=norm_taps, taps=(3, 12))).eval()  # type: ignore[arg-type]
    pixels = torch.randn(1, 3, 64, 64)
    taps, _ = backbone(pixels)
    expected = backbone.vit.forward_intermediates(
        pixels, indices=[2, 11], norm=norm_taps == "all", intermediates_only=True
    )
    for tap, reference in zip(taps, expected, strict=True):
        torch.testing.assert_close(tap, reference)


def official_checkpoint(registers: bool) -> dict[str, Tensor]:
    """A file as the official DINOv2 code saves it, at ViT-S size."""
    model = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0)
    torch.manual_seed(1)
    tensors = {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
    tensors["mask_token"] = torch.randn(1, 384)
    if registers:
        tensors["register_tokens"] = torch.randn(1, 4, 384)
    return tensors


@torch.inference_mode()
@pytest.mark.parametrize("registers", [False, True])
def test_official_key_names_load_strictly(tmp_path: Path, registers: bool) -> None:
    tensors = official_checkpoint(registers)
    torch.save(tensors, tmp_path / "official.pth")
    config = (
        replace(SMALL_DINOV2, backbone="vit_small_patch14_reg4_dinov2.lvd142m") if registers else SMALL_DINOV2
    )
    backbone = Backbone(config).eval()
    load_backbone(backbone, tmp_path / "official.pth")
    tokens = torch.zeros(1, 37 * 37, 384)
    prefix = backbone.with_prefix(tokens, (37, 37))
    torch.testing.assert_close(prefix[:, :1], tensors["cls_token"] + tensors["pos_embed"][:, :1])
    torch.testing.assert_close(prefix[:, -37 * 37 :], tensors["pos_embed"][:, 1:])
    if registers:
        torch.testing.assert_close(prefix[:, 1:5], tensors["register_tokens"])


def test_timm_key_names_load_with_another_grid(tiny: ModelConfig, tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224")
    save_file(source.state_dict(), tmp_path / "timm.safetensors")
    backbone = Backbone(tiny)
    load_backbone(backbone, tmp_path / "timm.safetensors")
    assert backbone.vit.pos_embed.shape == (1, 1 + 16, 192)
    torch.testing.assert_close(backbone.vit.blocks[5].attn.qkv.weight, source.blocks[5].attn.qkv.weight)


def test_wrong_backbone_is_refused_by_key(tiny: ModelConfig, tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224").state_dict()
    del source["norm.bias"]
    source["extra"] = torch.zeros(1)
    source["blocks.0.norm1.weight"] = torch.zeros(3)
    save_file(source, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError) as refusal:
        load_backbone(Backbone(tiny), tmp_path / "bad.safetensors")
    message = str(refusal.value)
    assert "1 missing (norm.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "blocks.0.norm1.weight (3,) instead of (192,)" in message
