"""Official layouts, written here name by name, load strictly; our own checkpoints come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ovsdino.dinov3seg import checkpoint
from ovsdino.dinov3seg.checkpoint import PublicWeights, load_dinov3seg, load_public, read_model
from ovsdino.dinov3seg.dinotxt_text import DinoTxtText
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import TINY
from ovsdino.dinov3seg.rope import ROPE_PERIODS, computed_periods
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino.network.checkpoint import CheckpointError, save_model
from ovsdino.network.text_tower import TextTower
from tests.dinov3seg.small import SMALL, SMALL_CLIP, SMALL_VLM


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}


def linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def official_backbone() -> dict[str, Tensor]:
    """DINOv3's own file, of the backbone with 12 blocks of 192."""
    width = 192
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        **norm("norm", width),
    }
    for number in range(12):
        block = f"blocks.{number}."
        shapes |= norm(block + "norm1", width) | norm(block + "norm2", width)
        shapes |= linear(block + "attn.qkv", 3 * width, width) | linear(block + "attn.proj", width, width)
        shapes |= linear(block + "mlp.fc1", 4 * width, width) | linear(block + "mlp.fc2", width, 4 * width)
        shapes |= {block + "ls1.gamma": (width,), block + "ls2.gamma": (width,)}
    tensors = draw(shapes)
    for number in range(12):
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        tensors[f"blocks.{number}.attn.qkv.bias_mask"] = mask
    periods = 100.0 ** (2 * torch.arange(16) / 32)
    tensors["rope_embed.periods"] = periods.bfloat16()
    return tensors


def official_dinotxt() -> dict[str, Tensor]:
    """dino.txt's own file: vision head of 192 with 2 blocks, text tower of 32 with 2 blocks."""
    vision, text = 192, 32
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (1,),
        **norm("visual_model.head.ln_final", vision),
        "text_model.backbone.token_embedding.weight": (100, text),
        "text_model.backbone.positional_embedding": (77, text),
        **norm("text_model.backbone.ln_final", text),
        "text_model.head.linear_projection.weight": (2 * vision, text),
    }
    for number in range(2):
        block = f"visual_model.head.blocks.{number}."
        shapes |= norm(block + "norm1", vision) | norm(block + "norm2", vision)
        shapes |= {
            block + "attn.qkv.weight": (3 * vision, vision),
            **linear(block + "attn.proj", vision, vision),
        }
        shapes |= {block + "ls1.gamma": (vision,), block + "ls2.gamma": (vision,)}
        shapes |= linear(block + "mlp.w1", 512, vision) | linear(block + "mlp.w2", 512, vision)
        shapes |= linear(block + "mlp.w3", vision, 512)
        block = f"text_model.backbone.blocks.{number}."
        shapes |= norm(block + "attention_norm", text) | norm(block + "ffn_norm", text)
        shapes |= {block + "attention.qkv.weight": (3 * text, text)}
        shapes |= linear(block + "attention.proj", text, text)
        shapes |= linear(block + "feed_forward.fc1", 4 * text, text)
        shapes |= linear(block + "feed_forward.fc2", text, 4 * text)
    return draw(shapes)


def test_the_official_backbone_loads_and_its_key_bias_stays_masked(tmp_path: Path) -> None:
    tensors = official_backbone()
    torch.save(tensors, tmp_path / "dinov3.pth")
    vlm = Vlm(SMALL_VLM)
    checkpoint.load_backbone(vlm, tmp_path / "dinov3.pth")
    assert isinstance(vlm.vision, DinoTxtVision)
    ours = vlm.vision.backbone.state_dict()
    torch.testing.assert_close(ours["reg_token"], tensors["storage_tokens"])
    torch.testing.assert_close(ours["blocks.11.gamma_2"], tensors["blocks.11.ls2.gamma"])
    block = vlm.vision.backbone.blocks[3].attn  # type: ignore[index, union-attr]
    x = torch.randn(1, 2, 192)
    bias = tensors["blocks.3.attn.qkv.bias"] * tensors["blocks.3.attn.qkv.bias_mask"]
    expected = x @ tensors["blocks.3.attn.qkv.weight"].T + bias
    found = torch.nn.functional.linear(
        x, block.qkv.weight, torch.cat([block.q_bias, block.k_bias, block.v_bias])
    )
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_rope_turns_by_the_periods_of_the_official_file(tmp_path: Path) -> None:
    tensors = official_backbone()
    torch.save(tensors, tmp_path / "dinov3.pth")
    vlm = Vlm(SMALL_VLM)
    checkpoint.load_backbone(vlm, tmp_path / "dinov3.pth")
    assert isinstance(vlm.vision, DinoTxtVision)
    periods = tensors["rope_embed.periods"].float()
    rows, columns = torch.arange(0.5, 3) / 3, torch.arange(0.5, 5) / 5
    coords = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = 2 * torch.pi * (2.0 * coords - 1.0)[:, :, None] / periods[None, None, :]  # (15, 2, 16)
    angles = angles.flatten(1, 2).tile(2)  # (15, 64)
    expected = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rope = vlm.vision.backbone.rope
    torch.testing.assert_close(rope.get_embed((3, 5)), expected, rtol=0, atol=1e-6)  # type: ignore[union-attr, operator]
    assert (rope.periods - computed_periods(vlm.vision.backbone)).abs().max() > 0.01  # type: ignore[operator, union-attr]

    network = Dinov3Seg(SMALL)
    load_public(network, PublicWeights(backbone=tmp_path / "dinov3.pth"))
    save_model(network, tmp_path / "ours.safetensors")
    again = read_model(SMALL, tmp_path / "ours.safetensors")
    torch.testing.assert_close(
        again.vlm.state_dict()[f"vision.backbone.{ROPE_PERIODS}"], periods, rtol=0, atol=0
    )


def test_anyups_weights_are_refused_where_the_formula_is_computed(tmp_path: Path) -> None:
    torch.save(official_anyup(), tmp_path / "anyup.pth")
    network = Dinov3Seg(replace(SMALL, early_unification="formula"))
    with pytest.raises(CheckpointError, match="belong to early_unification='released', this network has 'fo"):
        load_public(network, PublicWeights(anyup=tmp_path / "anyup.pth"))


def test_the_official_head_and_text_tower_load_strictly(tmp_path: Path) -> None:
    tensors = official_dinotxt()
    torch.save(tensors, tmp_path / "dinotxt.pth")
    vlm = Vlm(SMALL_VLM)
    checkpoint.load_dinotxt(vlm, tmp_path / "dinotxt.pth")
    assert isinstance(vlm.vision, DinoTxtVision)
    assert isinstance(vlm.text, DinoTxtText)
    head, text = vlm.vision.head.state_dict(), vlm.text.state_dict()
    assert len(head) + len(text) == len(tensors) - 1  # all but the temperature
    pairs = {
        "blocks.1.mlp.fc1_g.weight": "blocks.1.mlp.w1.weight",
        "blocks.1.mlp.fc1_x.weight": "blocks.1.mlp.w2.weight",
        "blocks.0.mlp.fc2.bias": "blocks.0.mlp.w3.bias",
        "blocks.0.gamma_1": "blocks.0.ls1.gamma",
    }
    for ours, theirs in pairs.items():
        torch.testing.assert_close(head[ours], tensors[f"visual_model.head.{theirs}"])
    official = "text_model.backbone.blocks.1."
    torch.testing.assert_close(text["blocks.1.norm1.weight"], tensors[official + "attention_norm.weight"])
    torch.testing.assert_close(text["blocks.1.norm2.weight"], tensors[official + "ffn_norm.weight"])
    torch.testing.assert_close(text["blocks.1.attn.qkv.weight"], tensors[official + "attention.qkv.weight"])
    torch.testing.assert_close(text["blocks.1.mlp.fc2.bias"], tensors[official + "feed_forward.fc2.bias"])

    whole = tensors | {f"visual_model.backbone.{key}": value for key, value in official_backbone().items()}
    torch.save(whole, tmp_path / "whole.pth")
    checkpoint.load_dinotxt(vlm, tmp_path / "whole.pth")
    cls_token = vlm.vision.backbone.state_dict()["cls_token"]
    torch.testing.assert_close(cls_token, whole["visual_model.backbone.cls_token"])


@pytest.mark.parametrize("with_bias", [True, False])
def test_timms_names_load_with_and_without_biases(tmp_path: Path, with_bias: bool) -> None:
    source = DinoTxtVision(SMALL_VLM).backbone.state_dict()
    for key in source:
        if key.endswith(("q_bias", "v_bias")):
            source[key] = torch.ones_like(source[key])
    tensors = {key: value for key, value in source.items() if with_bias or not key.endswith("_bias")}
    save_file(tensors, tmp_path / "timm.safetensors")
    vlm = Vlm(SMALL_VLM)
    checkpoint.load_backbone(vlm, tmp_path / "timm.safetensors")
    assert isinstance(vlm.vision, DinoTxtVision)
    bias = vlm.vision.backbone.state_dict()["blocks.5.attn.v_bias"]
    assert (bias == (1 if with_bias else 0)).all()


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    vlm = Vlm(SMALL_VLM)
    path = tmp_path / "file.pth"

    def refused(tensors: dict[str, Tensor], load: object, message: str) -> None:
        torch.save(tensors, path)
        with pytest.raises(CheckpointError, match=message):
            load(vlm, path)  # type: ignore[operator]

    backbone, dinotxt = official_backbone(), official_dinotxt()
    other = backbone | {"rope_embed.periods": backbone["rope_embed.periods"] * 1.5}
    refused(other, checkpoint.load_backbone, "its RoPE periods are not those of vit_tiny_patch16_dinov3_qkvb")
    fewer = {key: value for key, value in backbone.items() if key != "blocks.7.ls1.gamma"}
    refused(fewer, checkpoint.load_backbone, r"1 missing \(blocks.7.gamma_1\)")
    refused(backbone, checkpoint.load_dinotxt, "no logit_scale in it")
    refused(dinotxt | {"extra": torch.zeros(1)}, checkpoint.load_dinotxt, "unexpected extra")
    wrong = dinotxt | {"visual_model.head.ln_final.bias": torch.zeros(3)}
    refused(wrong, checkpoint.load_dinotxt, r"ln_final.bias \(3,\) instead of \(192,\)")
    refused(dinotxt, checkpoint.load_clip, "small is not CLIP")
    refused(dinotxt, lambda _, file: checkpoint.load_anyup(anyup(), file), "is not a checkpoint of AnyUp")
    clip = Vlm(SMALL_CLIP)
    with pytest.raises(CheckpointError, match=r"small-clip has no dino\.txt vision tower"):
        checkpoint.load_backbone(clip, path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load_backbone(vlm, tmp_path / "missing.pth")


@torch.no_grad()
def test_clip_in_openais_names_loads_and_encodes_as_open_clip_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = open_clip.model.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 64, "patch_size": 16, "width": 256, "layers": 10, "head_width": 32},
        text_cfg={"width": 24, "heads": 2, "layers": 2},
        quick_gelu=True,
    ).eval()
    torch.save(source.state_dict(), tmp_path / "clip.pt")
    vlm = Vlm(SMALL_CLIP).eval()
    checkpoint.load_clip(vlm, tmp_path / "clip.pt")
    ids = open_clip.tokenize(["a cat on a wall"])
    torch.testing.assert_close(vlm.text(ids), source.encode_text(ids, normalize=True), rtol=1e-4, atol=1e-5)
    weight = source.visual.transformer.resblocks[9].mlp.c_fc.weight
    torch.testing.assert_close(vlm.vision.vit.blocks[9].mlp.fc1.weight, weight)  # type: ignore[union-attr, index]
    torch.testing.assert_close(vlm.vision.vit.head.weight, source.visual.proj.T)  # type: ignore[union-attr]


def test_sams_encoder_is_taken_out_of_a_whole_sam(tmp_path: Path) -> None:
    encoder = ImageEncoderViT(
        img_size=128,
        embed_dim=16,
        depth=2,
        num_heads=2,
        out_chans=8,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(8, (8, 8), (128, 128), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=8, mlp_dim=16, num_heads=2)
    sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=8, transformer=transformer))
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    network = Dinov3Seg(SMALL)
    load_public(network, PublicWeights(sam=tmp_path / "sam.pth"))
    assert network.prior is not None
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(network.prior.encoder.state_dict()[key], value, rtol=0, atol=0)


def anyup() -> nn.Module:
    return Dinov3Seg(SMALL).early[0]


def official_anyup(width: int = 16) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.0.weight": (width, 3, 1, 1),
        "key_encoder.0.weight": (width, width, 1, 1),
        "query_encoder.0.weight": (width, width, 1, 1),
        "key_features_encoder.0.basis": (width, 1, 5, 5),
        "aggregation.0.weight": (width, 2 * width, 3, 3),
        "cross_decode.conv2d.weight": (width, width, 3, 3),
        "cross_decode.cross_attn.norm_q.weight": (width,),
        "cross_decode.cross_attn.norm_k.weight": (width,),
        "cross_decode.cross_attn.attention.in_proj_weight": (3 * width, width),
        "cross_decode.cross_attn.attention.in_proj_bias": (3 * width,),
        **linear("cross_decode.cross_attn.attention.out_proj", width, width),
        "rope.freqs": (2, width),
    }
    for part in ("image_encoder", "key_encoder", "query_encoder", "key_features_encoder", "aggregation"):
        for number in (1, 2):
            block = f"{part}.{number}.block."
            shapes |= norm(block + "0", width) | norm(block + "3", width)
            shapes |= {block + "2.weight": (width, width, 1, 1), block + "5.weight": (width, width, 1, 1)}
    return draw(shapes)


def test_official_anyup_loads_without_its_unused_projections(tmp_path: Path) -> None:
    tensors = official_anyup()
    torch.save(tensors, tmp_path / "anyup.pth")
    network = Dinov3Seg(replace(SMALL, early_blocks=2))
    load_public(network, PublicWeights(anyup=tmp_path / "anyup.pth"))
    for early in network.early:
        state = early.state_dict()
        attention = "cross_decode.cross_attn.attention.in_proj_"
        torch.testing.assert_close(state["weights.query.weight"], tensors[attention + "weight"][:16])
        torch.testing.assert_close(state["weights.key.bias"], tensors[attention + "bias"][16:32])
        torch.testing.assert_close(state["weights.context.weight"], tensors["cross_decode.conv2d.weight"])
        torch.testing.assert_close(state["rope.freqs"], tensors["rope.freqs"])
        assert (
            len(state) == len(tensors) - 4 + 4
        )  # two projections of two tensors for a joint one, which is unused


def test_the_tiny_preset_starts_from_timms_vit_and_the_packaged_text_tower(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = Dinov3Seg(TINY)
    assert isinstance(network.vlm.vision, DinoTxtVision)
    source = DinoTxtVision(TINY.vlm).backbone.state_dict()
    source |= {"head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)}
    save_file(source, tmp_path / "vit.safetensors")
    load_public(network, PublicWeights(backbone=tmp_path / "vit.safetensors"))
    ours = network.vlm.vision.backbone.state_dict()
    torch.testing.assert_close(ours["blocks.2.attn.qkv.weight"], source["blocks.2.attn.qkv.weight"])
    assert isinstance(network.vlm.text, TextTower)
    assert network.vlm.text.centre.abs().sum() > 0  # zeros until it was distilled


@torch.no_grad()
def test_our_own_checkpoint_comes_back_with_everything_that_is_computed(
    model: Dinov3Seg, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    again = read_model(model.config, path)
    assert not again.training
    pixels, text = torch.randn(1, 3, 96, 96), torch.randn(5, 384)
    torch.testing.assert_close(again(pixels, text), model(pixels, text), rtol=0, atol=0)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of wider: .*mis-shaped"):
        read_model(replace(model.config, name="wider", width=32), path)


def test_a_trained_network_is_loaded_by_its_preset_s_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dinov3Seg(TINY)
    path = tmp_path / "tiny.safetensors"
    save_model(model, path)
    found = load_dinov3seg("dinov3seg-tiny", path)
    assert found.config == TINY
    assert not found.training
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="unknown model 'dinov3seg'; known: dinov3seg-vitl16, "):
        load_dinov3seg("dinov3seg", path)
    with pytest.raises(CheckpointError, match="dinov3seg-vitl16 has no public weights: give a checkpoint"):
        load_dinov3seg("dinov3seg-vitl16", None)
    with pytest.raises(CheckpointError, match="is not a checkpoint of dinov3seg-tiny-no-early"):
        load_dinov3seg("dinov3seg-tiny-no-early", path)
