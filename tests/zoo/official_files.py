"""Small published models, and files in the layouts in which their projects publish them, name by name."""

from __future__ import annotations

from dataclasses import replace

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ovsdino.dinov3seg.config import ZeroShotProtocol
from ovsdino.zoo.config import Talk2DinoConfig, ZeroShotConfig
from tests.dinov3seg.small import SMALL_VLM

Shapes = dict[str, tuple[int, ...]]

WIDTH, DEPTH, GRID = 48, 2, 4  # of the small DINOv2 with registers
CLIP_WIDTH, CLIP_LAYERS = 32, 2


@register_model
def zoo_small_reg4_dinov2(**kwargs: object) -> VisionTransformer:
    """timm's DINOv2 with registers, two blocks deep."""
    for key in ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    return VisionTransformer(
        patch_size=14,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=3,
        init_values=1e-5,
        reg_tokens=4,
        no_embed_class=True,
        **kwargs,  # type: ignore[arg-type]
    )


SMALL = Talk2DinoConfig(
    name="talk2dino-small",
    backbone="zoo_small_reg4_dinov2",
    text_width=WIDTH,
    backbone_depth=DEPTH,
    position_grid=GRID,
    image_size=GRID * 14,
    clip_width=CLIP_WIDTH,
    clip_heads=2,
    clip_layers=CLIP_LAYERS,
)
SMALL_DINOV3 = replace(
    SMALL,
    name="talk2dino-dinov3-small",
    family="dinov3",
    backbone="vit_tiny_patch16_dinov3_qkvb",
    text_width=192,
    patch_size=16,
    image_size=64,
)
SMALL_ZERO_SHOT = ZeroShotConfig(
    vlm=replace(SMALL_VLM, name="dinotxt-small", text_vocabulary=49408),
    protocol=ZeroShotProtocol(short_side=80, window=64, stride=32, templates="imagenet7"),
)


def linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def draw(shapes: Shapes) -> dict[str, Tensor]:
    """Random numbers of a size that shows: norms around 1, matrices that keep lengths."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) == 1 and name.endswith("weight"):
            tensors[name] = 1 + 0.1 * drawn
        else:
            tensors[name] = drawn * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
    return tensors


def block(name: str, width: int) -> Shapes:
    return {
        **norm(f"{name}.norm1", width),
        **norm(f"{name}.norm2", width),
        **linear(f"{name}.attn.qkv", 3 * width, width),
        **linear(f"{name}.attn.proj", width, width),
        **linear(f"{name}.mlp.fc1", 4 * width, width),
        **linear(f"{name}.mlp.fc2", width, 4 * width),
        f"{name}.ls1.gamma": (width,),
        f"{name}.ls2.gamma": (width,),
    }


def dinov2(grid: int = GRID) -> dict[str, Tensor]:
    """DINOv2's own file with registers: the class token has a position, the registers have none."""
    shapes: Shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + grid * grid, WIDTH),
        "register_tokens": (1, 4, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        **norm("norm", WIDTH),
    }
    for number in range(DEPTH):
        shapes |= block(f"blocks.{number}", WIDTH)
    return draw(shapes)


def dinov3() -> dict[str, Tensor]:
    """DINOv3's own file, of the backbone with 12 blocks of 192."""
    width = 192
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        **norm("norm", width),
    }
    for number in range(12):
        shapes |= block(f"blocks.{number}", width)
    tensors = draw(shapes)
    for number in range(12):
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        tensors[f"blocks.{number}.attn.qkv.bias_mask"] = mask
    tensors["rope_embed.periods"] = (100.0 ** (2 * torch.arange(16) / 32)).bfloat16()
    return tensors


def clip_blocks(prefix: str, width: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for number in range(layers):
        name = f"{prefix}transformer.resblocks.{number}"
        shapes |= {
            f"{name}.attn.in_proj_weight": (3 * width, width),
            f"{name}.attn.in_proj_bias": (3 * width,),
        }
        shapes |= linear(f"{name}.attn.out_proj", width, width)
        shapes |= norm(f"{name}.ln_1", width) | norm(f"{name}.ln_2", width)
        shapes |= linear(f"{name}.mlp.c_fc", 4 * width, width) | linear(
            f"{name}.mlp.c_proj", width, 4 * width
        )
    return shapes


def clip() -> dict[str, Tensor]:
    """CLIP's names, of a text tower two blocks deep and an image tower of one."""
    width, seen = CLIP_WIDTH, 16
    return draw(
        {
            "token_embedding.weight": (49408, width),
            "positional_embedding": (77, width),
            "text_projection": (width, width),
            "logit_scale": (),
            **norm("ln_final", width),
            **clip_blocks("", width, CLIP_LAYERS),
            "visual.class_embedding": (seen,),
            "visual.positional_embedding": (5, seen),
            "visual.proj": (seen, width),
            "visual.conv1.weight": (seen, 3, 16, 16),
            **norm("visual.ln_pre", seen),
            **norm("visual.ln_post", seen),
            **clip_blocks("visual.", seen, 1),
        }
    )


def projection(width: int = WIDTH, second: str = "hidden_layers.0") -> dict[str, Tensor]:
    """Talk2DINO's own file: the second layer was ``linear_layer2`` once."""
    return draw(linear("linear_layer", width, CLIP_WIDTH) | linear(second, width, width))


def whole() -> dict[str, Tensor]:
    """Talk2DINO's file on the Hub: its modules' names before those of its parts."""
    parts = {"model": dinov2(), "clip_model": clip(), "proj": projection()}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return tensors | {"logit_scale": torch.tensor(2.66)}


def dinotxt() -> dict[str, Tensor]:
    """dino.txt's own file: a vision head of 192 with 2 blocks, a text tower of 32 with 2 blocks."""
    vision, text = 192, 32
    shapes: Shapes = {
        "logit_scale": (1,),
        **norm("visual_model.head.ln_final", vision),
        "text_model.backbone.token_embedding.weight": (49408, text),
        "text_model.backbone.positional_embedding": (77, text),
        **norm("text_model.backbone.ln_final", text),
        "text_model.head.linear_projection.weight": (2 * vision, text),
    }
    for number in range(2):
        head = f"visual_model.head.blocks.{number}"
        shapes |= norm(f"{head}.norm1", vision) | norm(f"{head}.norm2", vision)
        shapes |= {f"{head}.attn.qkv.weight": (3 * vision, vision)} | linear(
            f"{head}.attn.proj", vision, vision
        )
        shapes |= {f"{head}.ls1.gamma": (vision,), f"{head}.ls2.gamma": (vision,)}
        shapes |= linear(f"{head}.mlp.w1", 512, vision) | linear(f"{head}.mlp.w2", 512, vision)
        shapes |= linear(f"{head}.mlp.w3", vision, 512)
        tower = f"text_model.backbone.blocks.{number}"
        shapes |= norm(f"{tower}.attention_norm", text) | norm(f"{tower}.ffn_norm", text)
        shapes |= {f"{tower}.attention.qkv.weight": (3 * text, text)}
        shapes |= linear(f"{tower}.attention.proj", text, text)
        shapes |= linear(f"{tower}.feed_forward.fc1", 4 * text, text)
        shapes |= linear(f"{tower}.feed_forward.fc2", text, 4 * text)
    return draw(shapes)


def sam() -> dict[str, Tensor]:
    """A few of Segment Anything's names; enough to know it by."""
    return draw(
        {
            "image_encoder.pos_embed": (1, 4, 4, 8),
            "image_encoder.neck.0.weight": (8, 8, 1, 1),
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 4),
            "mask_decoder.iou_token.weight": (1, 8),
        }
    )
