"""A restated model computes what the original computes."""

from dataclasses import replace

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn

from ovsdino.network.backbone import Backbone
from ovsdino.network.config import VITB14
from ovsdino_export.rewrite.explicit_attention import (
    ExplicitAttention,
    ExplicitMultiheadAttention,
    from_multihead,
    from_timm,
)
from ovsdino_export.rewrite.rewrite import FixedBackbone, restate

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@torch.no_grad()
def test_a_restated_model_gives_the_same_features(tiny, pixels):
    restated = restate(tiny)
    torch.testing.assert_close(restated(pixels), tiny(pixels), **CLOSE)
    assert any(isinstance(module, Attention) for module in tiny.modules()), "the original was changed"
    assert not any(isinstance(module, Attention) for module in restated.modules())
    assert sum(isinstance(module, ExplicitAttention) for module in restated.modules()) == 6
    assert not any(parameter.requires_grad for parameter in restated.parameters())


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_position_embeddings_of_dinov2_are_fixed_as_they_were(registers):
    config = replace(
        VITB14,
        backbone=f"vit_small_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
        backbone_width=384,
        image_size=84,
        position_offset=0.0 if registers else 0.1,
        position_antialias=registers,
    )
    backbone = Backbone(config)
    for tensor in (backbone.vit.pos_embed, backbone.vit.cls_token, backbone.vit.reg_token):
        if tensor is not None:
            nn.init.normal_(tensor)
    fixed = FixedBackbone(backbone)
    tokens = torch.randn(2, 36, 384)
    expected = backbone.with_prefix(tokens, (6, 6))
    assert expected.shape == (2, 36 + (5 if registers else 1), 384)
    torch.testing.assert_close(fixed.with_prefix(tokens, (6, 6)), expected, **CLOSE)
    with pytest.raises(ValueError, match="exported grid is 6 patches a side, got 5x6"):
        fixed(torch.randn(1, 3, 70, 84))


@torch.no_grad()
def test_the_scale_lies_on_q_so_that_fp16_scores_stay_finite():
    attention = from_timm(Attention(64, num_heads=1, qkv_bias=True)).half()
    attention.qkv.weight.zero_()
    attention.qkv.bias[:128] = 40.0  # q . k = 64 * 1600 = 102400, beyond FP16; scaled 12800
    tokens = torch.zeros(1, 4, 64, dtype=torch.float16)
    assert torch.isfinite(attention(tokens)).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_a_masked_attention_of_torch_is_restated(kind):
    torch.manual_seed(0)
    original = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    nn.init.normal_(original.in_proj_bias)
    x = torch.randn(3, 7, 32)
    mask = torch.full((7, 7), float("-inf")).triu(1) if kind == "float" else torch.ones(7, 7).triu(1) > 0
    expected, _ = original(x, x, x, attn_mask=mask, need_weights=False)
    seen = mask if kind == "float" else ~mask  # torch marks what may not be seen, timm what may
    torch.testing.assert_close(from_multihead(original)(x, attn_mask=seen), expected, **CLOSE)


@torch.no_grad()
def test_padding_is_masked_as_torch_does():
    torch.manual_seed(0)
    original = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x, padding = torch.randn(2, 5, 32), torch.tensor([[False] * 5, [False, False, False, True, True]])
    expected, _ = original(x, x, x, key_padding_mask=padding, need_weights=False)
    restated = ExplicitMultiheadAttention(from_multihead(original))
    torch.testing.assert_close(restated(x, x, x, key_padding_mask=padding)[0], expected, **CLOSE)


def test_what_cannot_be_restated_is_refused():
    with pytest.raises(ValueError, match=r"\['k_norm', 'q_norm'\] cannot be exported"):
        from_timm(Attention(32, num_heads=2, qk_norm=True, norm_layer=nn.LayerNorm))
    with pytest.raises(ValueError, match="batch_first"):
        from_multihead(nn.MultiheadAttention(32, 2))
    attention = ExplicitMultiheadAttention(from_multihead(nn.MultiheadAttention(32, 2, batch_first=True)))
    x = torch.randn(1, 3, 32)
    with pytest.raises(ValueError, match="only self-attention"):
        attention(x, x.clone(), x)
    with pytest.raises(ValueError, match="given as attn_mask"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(ValueError, match="given as attn_mask"):
        attention.attention(x, is_causal=True)
