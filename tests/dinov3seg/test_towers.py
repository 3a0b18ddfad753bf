"""The towers of dino.txt and CLIP, against other libraries' layers and plain re-statements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from ovsdino.dinov3seg.clip_vision import ClipVision
from ovsdino.dinov3seg.dinotxt_text import DinoTxtText, build_text
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision, VisionHead
from ovsdino.dinov3seg.presets import DINOTXT_TINY, DINOTXT_VITL16, VITL16
from ovsdino.dinov3seg.semantic_prior import SemanticPrior
from ovsdino.dinov3seg.tokenizer import tokenize
from ovsdino.dinov3seg.vlm import Vlm
from tests.dinov3seg.small import SMALL_CLIP, SMALL_VLM, randomise


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_the_published_ones() -> None:
    """303.1 M, 25.3 M and 538.1 M; SAM ViT-L's image encoder 308.3 M. Nothing is allocated."""
    with torch.device("meta"):
        vlm = Vlm(DINOTXT_VITL16)
        assert VITL16.prior is not None
        prior = SemanticPrior(VITL16.prior)
    assert isinstance(vlm.vision, DinoTxtVision)
    assert parameters(vlm.vision.backbone) == 303_128_576
    assert parameters(vlm.vision.head) == 25_326_336
    assert parameters(vlm.text) == 538_131_200
    assert parameters(prior) == 308_278_272
    assert vlm.vision.head.blocks[0].mlp.fc2.in_features == 2752  # type: ignore[union-attr]


def as_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of a DINOv3 backbone -> transformers'."""
    renamed = {
        "embeddings.cls_token": tensors["cls_token"],
        "embeddings.register_tokens": tensors["reg_token"],
        "embeddings.mask_token": torch.zeros_like(tensors["cls_token"]),
        "embeddings.patch_embeddings.weight": tensors["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": tensors["patch_embed.proj.bias"],
        "norm.weight": tensors["norm.weight"],
        "norm.bias": tensors["norm.bias"],
    }
    for number in range(12):
        ours, theirs = f"blocks.{number}.", f"model.layer.{number}."
        for letter, part in zip("qkv", tensors[ours + "attn.qkv.weight"].chunk(3), strict=True):
            renamed[f"{theirs}attention.{letter}_proj.weight"] = part
        renamed[theirs + "attention.q_proj.bias"] = tensors[ours + "attn.q_bias"]
        renamed[theirs + "attention.v_proj.bias"] = tensors[ours + "attn.v_bias"]
        renamed[theirs + "layer_scale1.lambda1"] = tensors[ours + "gamma_1"]
        renamed[theirs + "layer_scale2.lambda1"] = tensors[ours + "gamma_2"]
        for kind in ("weight", "bias"):
            renamed[f"{theirs}norm1.{kind}"] = tensors[f"{ours}norm1.{kind}"]
            renamed[f"{theirs}norm2.{kind}"] = tensors[f"{ours}norm2.{kind}"]
            renamed[f"{theirs}attention.o_proj.{kind}"] = tensors[f"{ours}attn.proj.{kind}"]
            renamed[f"{theirs}mlp.up_proj.{kind}"] = tensors[f"{ours}mlp.fc1.{kind}"]
            renamed[f"{theirs}mlp.down_proj.{kind}"] = tensors[f"{ours}mlp.fc2.{kind}"]
    return renamed


@torch.inference_mode()
def test_the_backbone_with_its_rope_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = DinoTxtVision(SMALL_VLM).eval()
    randomise(vision.backbone)
    config = transformers.DINOv3ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, num_register_tokens=4
    )
    reference = transformers.DINOv3ViTModel(config).eval()
    reference.load_state_dict(as_transformers(vision.backbone.state_dict()))
    pixels = torch.randn(2, 3, 64, 96)  # not square: each axis has its own coordinates
    expected = reference(pixels).last_hidden_state
    assert expected.std() > 0.5
    torch.testing.assert_close(
        vision.backbone.forward_features(pixels), expected, rtol=1e-4, atol=1e-4
    )  # FP32, 12 layers


def official_head_block(x: Tensor, block: nn.Module, heads: int) -> Tensor:
    """One block of dino.txt's head in the official code's formulas, by torch's own attention."""
    state = dict(block.named_parameters())
    width = x.shape[-1]
    y = F.layer_norm(x, (width,), state["norm1.weight"], state["norm1.bias"])
    attention = nn.MultiheadAttention(width, heads, bias=True, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(state["attn.qkv.weight"])
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(state["attn.proj.weight"])
        attention.out_proj.bias.copy_(state["attn.proj.bias"])
    x = x + state["gamma_1"] * attention(y, y, y, need_weights=False)[0]
    y = F.layer_norm(x, (width,), state["norm2.weight"], state["norm2.bias"])
    gate = y @ state["mlp.fc1_g.weight"].T + state["mlp.fc1_g.bias"]  # official w1
    value = y @ state["mlp.fc1_x.weight"].T + state["mlp.fc1_x.bias"]  # official w2
    hidden = gate * torch.sigmoid(gate) * value
    return x + state["gamma_2"] * (hidden @ state["mlp.fc2.weight"].T + state["mlp.fc2.bias"])  # official w3


@torch.inference_mode()
def test_the_vision_head_is_two_swiglu_blocks_and_a_norm() -> None:
    torch.manual_seed(1)
    head = VisionHead(replace(SMALL_VLM, backbone_width=48, text_width=96, head_heads=4)).eval()
    randomise(head)
    tokens = torch.randn(2, 7, 48)
    expected = tokens
    for block in head.blocks:
        expected = official_head_block(expected, block, heads=4)
    expected = F.layer_norm(expected, (48,), head.ln_final.weight, head.ln_final.bias)
    torch.testing.assert_close(head(tokens), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_patches_and_embedding_come_from_the_heads_tokens() -> None:
    vision = DinoTxtVision(SMALL_VLM).eval()
    pixels = torch.randn(2, 3, 32, 48)
    tokens = vision.head(vision.backbone.forward_features(pixels))
    assert tokens.shape == (2, 1 + 4 + 6, 192)
    patches = vision(pixels)
    assert patches.shape == (2, 192, 2, 3)
    torch.testing.assert_close(patches[1, :, 1, 2], tokens[1, 10])  # the last patch, after 5 other tokens
    embedding = vision.embed(pixels)
    torch.testing.assert_close(embedding[:, :192], tokens[:, 0])
    torch.testing.assert_close(embedding[:, 192:], patches.mean((2, 3)))


@torch.inference_mode()
def test_the_text_tower_equals_open_clips_without_query_key_value_biases() -> None:
    torch.manual_seed(2)
    tower = DinoTxtText(SMALL_VLM).eval()
    randomise(tower)
    reference = TextTransformer(
        context_length=77, vocab_size=100, width=32, heads=2, layers=2, output_dim=384
    ).eval()  # pre-norm, exact GELU, causal, read at the largest id
    names = {"attn.qkv.weight": "attn.in_proj_weight", "attn.proj.": "attn.out_proj.", "mlp.fc1": "mlp.c_fc"}
    names |= {"mlp.fc2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2", "blocks.": "transformer.resblocks."}
    tensors = {}
    for key, value in tower.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)  # noqa: PLW2901
        tensors[key] = value
    tensors["text_projection"] = tensors.pop("linear_projection.weight").T
    missing = reference.load_state_dict(tensors, strict=False).missing_keys
    assert all(key.endswith("in_proj_bias") for key in missing)
    for key in missing:
        reference.get_parameter(key).zero_()
    ids = torch.randint(1, 99, (3, 77))
    ids[0, 9], ids[1, 76], ids[2, 1] = 99, 99, 99
    expected = reference(ids)
    torch.testing.assert_close(tower(ids), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        tower(ids[:1, :10]), expected[:1], rtol=1e-4, atol=1e-5
    )  # nothing behind the end


def test_recomputed_activations_change_no_gradient() -> None:
    torch.manual_seed(3)
    ids = torch.randint(1, 100, (3, 6))
    gradients = []
    for checkpointing in (True, False):
        torch.manual_seed(4)
        tower = DinoTxtText(replace(SMALL_VLM, text_checkpointing=checkpointing)).train()
        tower(ids).square().sum().backward()
        gradients.append([parameter.grad for parameter in tower.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@torch.inference_mode()
def test_clips_patches_are_those_of_an_attention_that_sees_only_itself() -> None:
    vision = ClipVision(SMALL_CLIP).eval()
    torch.manual_seed(5)
    randomise(vision, 0.1)
    pixels = torch.randn(2, 3, 48, 64)
    vit = vision.vit
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(pixels)))
    for block in vit.blocks[:-1]:
        x = block(x)
    alone = torch.eye(x.shape[1], dtype=torch.bool)  # each token attends to itself: what is left is its value
    x = vit.blocks[-1](x, attn_mask=alone)
    expected = vit.head(vit.norm(x))[:, 1:].transpose(1, 2).reshape(2, 24, 3, 4)
    torch.testing.assert_close(vision(pixels), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_clip_has_one_embedding_a_class() -> None:
    vlm = Vlm(SMALL_CLIP).eval()
    text = vlm.text(tokenize(["a cat", "a dog and a very small tree"], SMALL_CLIP))
    assert text.shape == (2, 24)
    assert vlm(torch.randn(1, 3, 64, 64), text).shape == (1, 2, 4, 4)


def test_prompts_become_clips_pieces_and_long_ones_keep_their_end() -> None:
    ids = tokenize(["a cat", "tree " * 100], DINOTXT_VITL16)
    assert ids.shape == (2, 77)
    assert ids[0, :5].tolist() == [49406, 320, 2368, 49407, 0]  # as CLIP's own tokenizer cuts it
    assert ids[1, -1] == 49407


def test_nanos_tower_gives_both_halves_of_the_tiny_preset() -> None:
    ids = tokenize(["cat", "a bowl of soup"], DINOTXT_TINY)
    assert ids.shape[0] == 2
    assert ids.dtype == torch.int64
    assert build_text(DINOTXT_TINY)(ids).shape == (2, 2 * DINOTXT_TINY.width)
