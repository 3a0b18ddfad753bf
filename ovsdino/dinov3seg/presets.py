"""Presets of dinov3.seg by name: the published network, a tiny one, ablations, and dino.txt by itself."""

from __future__ import annotations

from dataclasses import replace

from ovsdino.dinov3seg.config import (
    Dinov3segConfig,
    LocalGlobalConfig,
    PriorConfig,
    VlmConfig,
    ZeroShotProtocol,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

DINOTXT_VITL16 = VlmConfig()

CLIP_VITL14 = VlmConfig(
    name="clip-vitl14-336",
    kind="clip",
    backbone="vit_large_patch14_clip_quickgelu_336",
    patch_size=14,
    position_size=336,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    head_blocks=0,
    text="clip",
    text_width=768,
    text_layers=12,
    text_channels=768,
    text_heads=12,
)

DINOTXT_TINY = VlmConfig(
    name="dinotxt-tiny",
    backbone="vit_tiny_patch16_224",
    backbone_width=192,
    position_size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    head_heads=3,
    head_drop_path=0.0,
    text="nano",
    text_width=384,  # nano's, cut in two as dino.txt's is
)

VITL16 = Dinov3segConfig()

TINY = Dinov3segConfig(
    name="dinov3seg-tiny",
    vlm=DINOTXT_TINY,
    templates=("{}",),  # nano's tower was trained on bare names
    crop=224,
    early_width=32,
    early_heads=2,
    early_groups=4,
    early_basis=3,
    early_unification="formula",  # it starts from no AnyUp weights
    early_shrink=4,
    width=32,
    late_heads=2,
    late_window=7,
    guidance_width=32,
    prior=PriorConfig(
        width=64,
        depth=4,
        heads=2,
        global_blocks=(1, 3),
        window=7,
        taps=(1, 3),
        size=224,
        native_size=224,
        channels=64,
        frozen=False,
    ),
    decoder_widths=(32, 16),
    decoder_prior_widths=(32, 16),
    decoder_guidance_widths=(16, 8),
    decoder_group=8,
    inference=LocalGlobalConfig(view=384, window=224, stride=160),
)

VLM_PRESETS: dict[str, VlmConfig] = {"dinotxt-vitl16": DINOTXT_VITL16}
PROTOCOLS: dict[str, ZeroShotProtocol] = {"dinotxt-vitl16": ZeroShotProtocol()}  # of the zero-shot models


def ablations(config: Dinov3segConfig) -> dict[str, Dinov3segConfig]:
    """Return the ablations of a network by name: without a text half, a refinement or SAM's guidance."""
    changed = {
        "global": replace(config, halves=("global",)),
        "local": replace(config, halves=("local",)),
        "no-early": replace(config, early=False),
        "no-late": replace(config, late=False),
        "no-prior": replace(config, prior=None),
    }
    names = {suffix: f"{config.name}-{suffix}" for suffix in changed}
    return {names[suffix]: replace(variant, name=names[suffix]) for suffix, variant in changed.items()}


PRESETS: dict[str, Dinov3segConfig] = {
    "dinov3seg-vitl16": VITL16,
    "dinov3seg-tiny": TINY,
    **ablations(VITL16),
    **ablations(TINY),
    "dinov3seg-vitl14-clip": replace(
        VITL16,
        name="dinov3seg-vitl14-clip",
        vlm=CLIP_VITL14,
        crop=336,
        halves=("global",),
        inference=LocalGlobalConfig(view=560, window=336, stride=224),
    ),
}
