"""The blocks of late refinement, against timm's Swin and plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor

from ovsdino.dinov3seg.class_refinement import ClassRefinement, weighted_attention
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.guided_linear import GuidedLinear
from ovsdino.dinov3seg.spatial_refinement import SpatialRefinement, SwinBlock, WindowAttention
from tests.dinov3seg.small import randomise


def test_a_guided_linear_layer_is_one_on_both_inputs_together() -> None:
    layer = GuidedLinear(6, 3)
    x, guidance = torch.randn(2, 5, 4, 6), torch.randn(2, 1, 4, 3)
    together = torch.cat([x, guidance.expand(2, 5, 4, 3)], dim=-1)
    torch.testing.assert_close(layer(x, guidance), F.linear(together, layer.weight, layer.bias))


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (4, 4)])  # several windows, and a single one, which is not shifted
def test_a_block_without_guidance_equals_timms_swin(
    config: Dinov3segConfig, shifted: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    block = SwinBlock(config, guidance=0, shifted=shifted).eval()
    randomise(block)
    reference = SwinTransformerBlock(
        config.width, size, num_heads=config.late_heads, window_size=4, shift_size=2 if shifted else 0
    ).eval()
    reference.attn.relative_position_bias_table.zero_()
    names = {"attention_norm": "norm1", "attention.out": "attn.proj", "feed_norm": "norm2"}
    names |= {"feed.0": "mlp.fc1", "feed.2": "mlp.fc2"}
    tensors = {key: value for key, value in reference.state_dict().items() if "relative" in key}
    for old, new in names.items():
        for kind in ("weight", "bias"):
            tensors[f"{new}.{kind}"] = block.state_dict()[f"{old}.{kind}"]
    for kind in ("weight", "bias"):
        parts = [block.state_dict()[f"attention.{part}.{kind}"] for part in ("query", "key", "value")]
        tensors[f"attn.qkv.{kind}"] = torch.cat(parts)
    reference.load_state_dict(tensors, strict=False)
    x = torch.randn(6, *size, config.width)
    ours = block(x.unflatten(0, (2, 3)), None).flatten(0, 1)
    torch.testing.assert_close(ours, reference(x), rtol=1e-4, atol=1e-5)


def neighbours(row: int, column: int, size: tuple[int, int], shift: int) -> list[tuple[int, int]]:
    """Who shares a window of 4 with a place: windows start at ``shift - 4``, nothing wraps round."""

    def window(at: int) -> int:
        return (at - shift) // 4

    return [
        (i, j)
        for i in range(size[0])
        for j in range(size[1])
        if window(i) == window(row) and window(j) == window(column)
    ]


@torch.no_grad()
@pytest.mark.parametrize(("shifted", "shift"), [(False, 0), (True, 2)])
def test_windows_of_a_map_that_is_no_multiple_see_only_what_is_there(
    config: Dinov3segConfig, shifted: bool, shift: int
) -> None:
    """Place by place: 10 x 7 in windows of 4, with guidance."""
    torch.manual_seed(1)
    attention = WindowAttention(config, guidance=3, shifted=shifted).eval()
    randomise(attention, 0.6)
    size, width = (10, 7), config.width
    x, guidance = torch.randn(1, 2, *size, width), torch.randn(1, 1, *size, 3)
    seen = torch.cat([x, guidance.expand(1, 2, *size, 3)], dim=-1)
    query = F.linear(seen, attention.query.weight, attention.query.bias)
    key = F.linear(seen, attention.key.weight, attention.key.bias)
    value = attention.value(x)
    expected = torch.zeros_like(x)
    d = width // config.late_heads
    for row in range(10):
        for column in range(7):
            around = neighbours(row, column, size, shift)
            for n in range(2):
                mixed = []
                for head in range(config.late_heads):
                    part = slice(head * d, (head + 1) * d)
                    keys = torch.stack([key[0, n, i, j, part] for i, j in around])
                    values = torch.stack([value[0, n, i, j, part] for i, j in around])
                    mixed.append((keys @ query[0, n, row, column, part] / d**0.5).softmax(0) @ values)
                expected[0, n, row, column] = attention.out(torch.cat(mixed))
    torch.testing.assert_close(attention(x, guidance), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_spatial_block_is_a_plain_and_a_shifted_one_guided_by_the_normed_image(
    config: Dinov3segConfig,
) -> None:
    torch.manual_seed(2)
    block = SpatialRefinement(config).eval()
    randomise(block)
    assert block.guidance_norm is not None
    x, guidance = torch.randn(2, 3, config.width, 8, 8), torch.randn(2, config.guidance_width, 8, 8)
    normed = block.guidance_norm(guidance.permute(0, 2, 3, 1))
    for n in range(3):  # each class by itself
        y = x[:, n : n + 1].permute(0, 1, 3, 4, 2)
        y = block.shifted(block.plain(y, normed[:, None]), normed[:, None])
        torch.testing.assert_close(
            block(x, guidance)[:, n], y[:, 0].permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(block(x, guidance), block(x, -guidance), atol=1e-3)


@torch.no_grad()
def test_linear_attention_equals_its_definition_term_by_term() -> None:
    query, key, value = (torch.randn(5, 4) for _ in range(3))
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 7.0])

    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    expected = torch.zeros(5, 4)
    for n in range(5):
        similarity = torch.stack([weights[s] * (phi(query[n]) @ phi(key[s])) for s in range(5)])
        expected[n] = similarity @ value / similarity.sum()
    actual = weighted_attention(query, key, value=value, weights=weights, kind="linear")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)  # the definition has no epsilon


def cat_seg_class_block(block: ClassRefinement, x: Tensor, guidance: Tensor, length: int) -> Tensor:
    """CAT-Seg's block with all its copies of the padding token, one pixel at a time."""
    batch, classes, width, height, columns = x.shape
    out = torch.zeros_like(x)
    d = width // block.heads
    for b in range(batch):
        text = torch.cat([guidance[b], block.padding_guidance.expand(length - classes, -1)])
        for i in range(height):
            for j in range(columns):
                y = torch.cat([x[b, :, :, i, j], block.padding.expand(length - classes, -1)])
                normal = F.layer_norm(y, (width,), block.attention_norm.weight, block.attention_norm.bias)
                seen = torch.cat([normal, text], dim=1)
                q = F.linear(seen, block.query.weight, block.query.bias)
                k = F.linear(seen, block.key.weight, block.key.bias)
                v = F.linear(normal, block.value.weight, block.value.bias)
                heads = []
                for head in range(block.heads):
                    part = slice(head * d, (head + 1) * d)
                    if block.kind == "linear":
                        shares = (F.elu(q[:, part]) + 1) @ (F.elu(k[:, part]) + 1).T
                        shares = shares / shares.sum(1, keepdim=True)
                    else:
                        shares = (q[:, part] @ k[:, part].T / d**0.5).softmax(1)
                    heads.append(shares @ v[:, part])
                y = y + torch.cat(heads, dim=1)
                normal = F.layer_norm(y, (width,), block.feed_norm.weight, block.feed_norm.bias)
                hidden = F.linear(normal, block.feed[0].weight, block.feed[0].bias).clamp(min=0)
                y = y + F.linear(hidden, block.feed[2].weight, block.feed[2].bias)
                out[b, :, :, i, j] = x[b, :, :, i, j] + y[:classes]
    return out


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "full"])
def test_one_weighted_padding_token_stands_for_all_its_copies(config: Dinov3segConfig, kind: str) -> None:
    torch.manual_seed(3)
    block = ClassRefinement(replace(config, class_attention=kind, pad_length=12)).eval()  # type: ignore[arg-type]
    randomise(block, 0.6)
    x, guidance = torch.randn(2, 5, config.width, 2, 3), torch.randn(2, 5, config.guidance_width)
    expected = cat_seg_class_block(block, x, guidance, 12)
    present = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(block(x, guidance, present), expected, rtol=1e-4, atol=1e-5)
    # A class that is not asked for is one copy more.
    fewer = cat_seg_class_block(block, x[:, :4], guidance[:, :4], 12)
    present[:, 4] = False
    torch.testing.assert_close(block(x, guidance, present)[:, :4], fewer, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fewer, expected[:, :4], atol=1e-3)


@torch.no_grad()
def test_the_class_block_pools_in_training_only(config: Dinov3segConfig) -> None:
    torch.manual_seed(4)
    block = ClassRefinement(config)
    randomise(block)
    x, guidance = torch.randn(1, 3, config.width, 4, 6), torch.randn(1, 3, config.guidance_width)
    present = torch.ones(1, 3, dtype=torch.bool)
    small = F.avg_pool2d(x[0], 2)[None]
    branch = block.eval()(small, guidance, present) - small
    up = F.interpolate(branch[0], (4, 6), mode="bilinear", align_corners=True)[None]
    torch.testing.assert_close(block.train()(x, guidance, present), x + up, rtol=1e-4, atol=1e-5)
