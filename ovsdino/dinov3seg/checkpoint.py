"""Load weights of dinov3.seg strictly: our own checkpoints, and public ones from which training starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from open_clip.transformer import TextTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from ovsdino.dinov3seg.clip_vision import ClipVision
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.dinotxt_text import DinoTxtText
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.dinov3seg.early_refinement import EarlyRefinement, FeatureUnification
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import PRESETS
from ovsdino.dinov3seg.rope import ROPE_PERIODS, computed_periods
from ovsdino.dinov3seg.semantic_prior import SemanticPrior
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino.network.checkpoint import (
    TEXT,
    CheckpointError,
    check_keys,
    fill,
    packaged_file,
    read_tensors,
    shapes,
)
from ovsdino.network.clip_text import TEXT_KEYS, ClipTextTower
from ovsdino.network.text_tower import TextTower, load_text_tower

BFLOAT16 = 2**-8  # relative spacing of BF16, to which the official files round RoPE's periods

# Official names of a block's parts -> timm's.
BLOCK_NAMES = {
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "attention.": "attn.",
    "feed_forward.": "mlp.",
}

# Official AnyUp's names -> ours. It holds a torch attention whose value and output projections it never uses.
ANYUP_NAMES = {"cross_decode.conv2d.": "weights.context.", "cross_decode.cross_attn.norm_": "weights.norm_"}
ANYUP_ATTENTION = "cross_decode.cross_attn.attention."


class Dinov3(Protocol):
    """A tower on one of timm's DINOv3 backbones."""

    name: str  # timm's
    backbone: nn.Module


@dataclass(frozen=True)
class PublicWeights:
    """Public files from which training starts; None keeps the random initial weights of a part."""

    backbone: Path | None = None  # DINOv3 ViT-L/16, official or timm's; for the tiny preset timm's ViT-Ti/16
    dinotxt: Path | None = None  # official vision head and text encoder
    clip: Path | None = None  # OpenAI's CLIP ViT-L/14 at 336, instead of the two above
    sam: Path | None = None  # official SAM ViT-L
    anyup: Path | None = None  # official AnyUp, anyup_multi_backbone


def load_public(model: Dinov3Seg, weights: PublicWeights) -> None:
    """Load public weights into a network, in place; a nano text tower takes the packaged weights.

    Raises:
        CheckpointError: a file is missing, broken, or of another network.
    """
    if isinstance(model.vlm.text, TextTower):
        model.vlm.text.load_state_dict(load_text_tower(packaged_file(TEXT)).state_dict())
    if weights.backbone is not None:
        load_backbone(model.vlm, weights.backbone)
    if weights.dinotxt is not None:
        load_dinotxt(model.vlm, weights.dinotxt)
    if weights.clip is not None:
        load_clip(model.vlm, weights.clip)
    if weights.sam is not None and model.prior is not None:
        load_sam(model.prior, weights.sam)
    if weights.anyup is not None:
        for early in model.early:
            load_anyup(cast(EarlyRefinement, early), weights.anyup)


def load_dinov3seg(name: str, checkpoint: Path | None) -> Dinov3Seg:
    """Load a trained network by the name of its preset.

    Args:
        name: a key of :data:`ovsdino.dinov3seg.presets.PRESETS`.
        checkpoint: a file that ``ovsdino train`` wrote.

    Returns:
        The network in eval mode, FP32.

    Raises:
        CheckpointError: unknown preset, no weights, or weights of another network.
    """
    if name not in PRESETS:
        raise CheckpointError(f"unknown model {name!r}; known: {', '.join(PRESETS)}")
    if checkpoint is None:
        raise CheckpointError(
            f"{name} has no public weights: give a checkpoint that you trained (--checkpoint FILE)"
        )
    return read_model(PRESETS[name], checkpoint)


def read_model(config: Dinov3segConfig, path: Path) -> Dinov3Seg:
    """Load a file of :func:`ovsdino.network.checkpoint.save_model` with exactly this configuration.

    Returns:
        The network in eval mode, FP32.
    """
    tensors = read_tensors(path)
    with torch.device("meta"):  # every weight comes from the file: draw no random ones
        model = Dinov3Seg(config)
    for module in model.modules():
        computed = module._non_persistent_buffers_set
        for name in computed:
            setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
        if isinstance(module, TextTransformer):  # open_clip's has only its mask
            module.attn_mask = module.build_causal_mask()
        elif computed:
            module.init_non_persistent_buffers()  # type: ignore[operator]
    check_keys(shapes(model), tensors, path=path, name=config.name)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    if model.prior is not None:
        model.prior.requires_grad_(not model.prior.config.frozen)
    return model.eval()


def load_backbone(vlm: Vlm, path: Path) -> None:
    """Load a backbone in the official DINOv3 key names or timm's."""
    fill_backbone(dinotxt_vision(vlm, path), read_tensors(path), path)


def load_dinotxt(vlm: Vlm, path: Path) -> None:
    """Load the official dino.txt file: vision head, text tower and a temperature that inference does not use.

    Source of the names: facebookresearch/dinov3, ``eval/text``.
    """
    fill_dinotxt(vlm, read_tensors(path), path)


def fill_dinotxt(vlm: Vlm, tensors: dict[str, Tensor], path: Path) -> None:
    """Load dino.txt's tensors, and those of the backbone if the file contains them."""
    vision, text = dinotxt_vision(vlm, path), vlm.text
    if not isinstance(text, DinoTxtText):
        raise CheckpointError(f"{path}: {vlm.config.name} has a {vlm.config.text} text tower, not dino.txt's")
    tensors = dict(tensors)
    if "logit_scale" not in tensors:
        raise CheckpointError(f"{path} is not a checkpoint of dino.txt: no logit_scale in it")
    del tensors["logit_scale"]
    head = _take(tensors, "visual_model.head.")
    tower = _take(tensors, "text_model.backbone.") | _take(tensors, "text_model.head.")
    backbone = _take(tensors, "visual_model.backbone.")
    if tensors:
        raise CheckpointError(f"{path} is not a checkpoint of dino.txt: unexpected {sorted(tensors)[0]}")
    fill(
        vision.head,
        {rename(key): value for key, value in head.items()},
        path=path,
        name="dino.txt's vision head",
    )
    fill(text, {rename(key): value for key, value in tower.items()}, path=path, name="dino.txt's text tower")
    if backbone:
        fill_backbone(vision, backbone, path)


def load_clip(vlm: Vlm, path: Path) -> None:
    """Load CLIP ViT-L/14 at 336 in OpenAI's or open_clip's key names."""
    vision, text = vlm.vision, vlm.text
    if not isinstance(vision, ClipVision) or not isinstance(text, ClipTextTower):
        raise CheckpointError(f"{path}: {vlm.config.name} is not CLIP")
    tensors = read_tensors(path)
    visual = {key: value for key, value in tensors.items() if key.startswith("visual.")}
    if "visual.class_embedding" not in visual:
        raise CheckpointError(f"{path} is not a checkpoint of CLIP: no visual.class_embedding in it")
    fill(
        vision.vit, checkpoint_filter_fn(visual, vision.vit), path=path, name="CLIP ViT-L/14's image encoder"
    )
    words = {key: value for key, value in tensors.items() if key.startswith(TEXT_KEYS)}
    fill(text.clip, words, path=path, name="CLIP ViT-L/14's text encoder")


def load_sam(prior: SemanticPrior, path: Path) -> None:
    """Load SAM's image encoder from an official SAM checkpoint."""
    encoder = _take(read_tensors(path), "image_encoder.")
    fill(prior.encoder, encoder, path=path, name="SAM's image encoder")


def load_anyup(early: EarlyRefinement, path: Path) -> None:
    """Load official AnyUp weights into an early refinement.

    Raises:
        CheckpointError: the file is not AnyUp's, or the refinement unifies features in an order with which
            the weights were not trained.
    """
    unification = cast(FeatureUnification, early.key_features_encoder[0])
    if unification.order != "released":
        raise CheckpointError(
            f"{path}: official AnyUp weights belong to early_unification='released', this network has "
            f"{unification.order!r}; change the configuration, or train early refinement from scratch"
        )
    tensors = read_tensors(path)
    attention = _take(tensors, ANYUP_ATTENTION)
    if attention.keys() != {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}:
        raise CheckpointError(f"{path} is not a checkpoint of AnyUp: no {ANYUP_ATTENTION}* in it")
    for kind in ("weight", "bias"):
        query, key, _ = attention[f"in_proj_{kind}"].chunk(3)
        tensors |= {f"weights.query.{kind}": query, f"weights.key.{kind}": key}
    for old, new in ANYUP_NAMES.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    fill(early, tensors, path=path, name="AnyUp")


def fill_backbone(vision: Dinov3, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors with official or timm names, strictly; ignore a classifier.

    RoPE periods are those of the official file (rounded to BF16); with timm's names, those that timm
    computes.
    """
    if "storage_tokens" in tensors:
        tensors = official_to_timm(tensors, vision, path)
    tensors = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    wanted = shapes(vision.backbone)
    if ROPE_PERIODS in wanted and ROPE_PERIODS not in tensors:  # timm's files hold none: timm computes them
        tensors[ROPE_PERIODS] = computed_periods(vision.backbone)
    if not any(key.endswith("q_bias") for key in tensors):  # timm's variant without biases, all 0
        absent = {key: shape for key, shape in wanted.items() if key.endswith((".q_bias", ".v_bias"))}
        tensors |= {key: torch.zeros(shape) for key, shape in absent.items()}
    fill(vision.backbone, tensors, path=path, name=vision.name)


def official_to_timm(tensors: dict[str, Tensor], vision: Dinov3, path: Path) -> dict[str, Tensor]:
    """Rename an official DINOv3 checkpoint's keys to timm's.

    The mask token of pre-training and the masked bias of the keys are dropped. RoPE periods are taken from
    the file, which stores them rounded to BF16, as the official code uses them.
    """
    periods = tensors.get("rope_embed.periods")
    if periods is None or not torch.allclose(
        periods.float(), computed_periods(vision.backbone), rtol=BFLOAT16, atol=0
    ):
        raise CheckpointError(
            f"{path}: its RoPE periods are not those of {vision.name}; give the checkpoint of that backbone"
        )
    renamed: dict[str, Tensor] = {ROPE_PERIODS: periods}
    for key, value in tensors.items():
        if key.endswith("qkv.bias"):
            query, _, kept = value.chunk(3)
            renamed |= {key.replace("qkv.bias", "q_bias"): query, key.replace("qkv.bias", "v_bias"): kept}
        elif key not in {"mask_token", "rope_embed.periods"} and not key.endswith("qkv.bias_mask"):
            renamed[rename(key).replace("storage_tokens", "reg_token")] = value
    return renamed


def rename(key: str) -> str:
    """Convert an official parameter name to timm's."""
    for old, new in BLOCK_NAMES.items():
        key = key.replace(old, new)
    return key


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the entries with a prefix, and return them without it."""
    names = [key for key in tensors if key.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def dinotxt_vision(vlm: Vlm, path: Path) -> DinoTxtVision:
    """Return the vision tower of a dino.txt; reject CLIP's."""
    if not isinstance(vlm.vision, DinoTxtVision):
        raise CheckpointError(f"{path}: {vlm.config.name} has no dino.txt vision tower; give CLIP's file")
    return vlm.vision
