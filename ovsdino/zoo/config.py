"""Configurations and presets of published models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from ovsdino.dinov3seg.config import VlmConfig, ZeroShotProtocol
from ovsdino.dinov3seg.presets import PROTOCOLS, VLM_PRESETS
from ovsdino.network.config import IMAGENET_MEAN, IMAGENET_STD, VITB14, ModelConfig


class ZooConfig(Protocol):
    """The settings that an export needs: name, feature space, and how photos are cut."""

    @property
    def name(self) -> str: ...
    @property
    def text_width(self) -> int: ...  # D
    @property
    def templates(self) -> str: ...  # a packaged set of prompts
    @property
    def background(self) -> float: ...  # default threshold on sigmoid(cosine)
    @property
    def short_side(self) -> int: ...  # [px] of a photo
    @property
    def image_size(self) -> int: ...  # [px] side of a window
    @property
    def patch_size(self) -> int: ...  # [px]
    @property
    def stride(self) -> int: ...  # [px] from window to window
    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Talk2DinoConfig:
    """Talk2DINO: DINO's patches, and CLIP's text features projected into their space. Default: ViT-B/14.

    Source: Talk2DINO (arXiv 2411.19331); lorebianchi98/Talk2DINO, ``src/model.py`` and ``configs/``.
    """

    name: str = "talk2dino-vitb14"
    family: Literal["dinov2", "dinov3"] = "dinov2"  # learned or rotary positions
    backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m"  # a timm name
    text_width: int = 768  # D, the backbone's width
    backbone_depth: int = 12  # [blocks]
    patch_size: int = 14  # [px]
    position_grid: int = 37  # side of DINOv2's learned position embedding [patches]
    image_size: int = 448  # [px] the official configurations' resize_dim
    templates: str = "imagenet7"
    background: float = 0.55  # the official bg_thresh
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    # CLIP ViT-B/16's text encoder.
    clip_width: int = 512
    clip_heads: int = 8
    clip_layers: int = 12

    @property
    def short_side(self) -> int:
        """Short side of a photo, equal to a window [px]."""
        return self.image_size

    @property
    def stride(self) -> int:
        """Step between windows: half a window, as in the official evaluation [px]."""
        return self.image_size // 2

    @property
    def backbone_shape(self) -> ModelConfig:
        """Configuration of DINOv2 with registers for :class:`ovsdino.network.backbone.Backbone`."""
        return replace(
            VITB14,
            name=self.name,
            backbone=self.backbone,
            backbone_width=self.text_width,
            backbone_depth=self.backbone_depth,
            taps=(self.backbone_depth,),
            trained_blocks=0,
            patch_size=self.patch_size,
            position_grid=self.position_grid,
            position_offset=0.0,
            position_antialias=True,
            image_size=self.image_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """Zero-shot dino.txt: the cosine of its patches with one half of its class embeddings."""

    vlm: VlmConfig
    protocol: ZeroShotProtocol
    background: float = 0.5  # ours, cosine 0: the official protocol has no background

    @property
    def name(self) -> str:
        """The preset's name."""
        return self.vlm.name

    @property
    def text_width(self) -> int:
        """D, the width of a patch and of one half of a class embedding."""
        return self.vlm.width

    @property
    def templates(self) -> str:
        """Name of the set of prompts."""
        return self.protocol.templates

    @property
    def short_side(self) -> int:
        """Short side of a photo [px]."""
        return self.protocol.short_side

    @property
    def image_size(self) -> int:
        """Side of a window [px]."""
        return self.protocol.window

    @property
    def patch_size(self) -> int:
        """Side of a patch [px]."""
        return self.vlm.patch_size

    @property
    def stride(self) -> int:
        """Step between windows [px]."""
        return self.protocol.stride

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the colours."""
        return self.vlm.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the colours."""
        return self.vlm.std

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


TALK2DINO: dict[str, Talk2DinoConfig] = {
    "talk2dino-vitb14": Talk2DinoConfig(),
    "talk2dino-vitl14": Talk2DinoConfig(
        name="talk2dino-vitl14",
        backbone="vit_large_patch14_reg4_dinov2.lvd142m",
        text_width=1024,
        backbone_depth=24,
        background=0.54,
    ),
    "talk2dino-dinov3-vitb16": Talk2DinoConfig(
        name="talk2dino-dinov3-vitb16",
        family="dinov3",
        backbone="vit_base_patch16_dinov3_qkvb",
        patch_size=16,
    ),
}
ZERO_SHOT: dict[str, ZeroShotConfig] = {
    name: ZeroShotConfig(vlm=config, protocol=PROTOCOLS[name]) for name, config in VLM_PRESETS.items()
}
