"""The configuration of dinov3.seg's network; the presets are in ``presets.py``.

No code or weights are public, and parts of the paper could not be recovered. Choices marked "reconstructed"
are ours, mostly taken from CAT-Seg, on which the paper builds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ovsdino.network.config import IMAGENET_MEAN, IMAGENET_STD, SAM_CHANNELS, require_fields

Half = Literal["global", "local"]
UnificationOrder = Literal["released", "formula"]  # of AnyUp's softmax: its code's, or its paper's
Patches = Literal["head", "backbone"]  # whose patches dino.txt compares with text


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """A vision tower and a text tower with one embedding space. The default is dino.txt on DINOv3 ViT-L/16.

    Source: facebookresearch/dinov3, ``hub/dinotxt.py``.

    Raises:
        ValueError: the widths do not match.
    """

    name: str = "dinotxt-vitl16"
    kind: Literal["dinotxt", "clip"] = "dinotxt"  # patches of a vision head, or as MaskCLIP's
    backbone: str = "vit_large_patch16_dinov3_qkvb"  # a timm name
    backbone_width: int = 1024
    patch_size: int = 16  # [px]
    position_size: int = 0  # [px] image that learned positions were made for; 0: the backbone has none
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    head_blocks: int = 2  # of the vision head
    head_heads: int = 16
    head_align: int = 64  # the SwiGLU's hidden width, 8/3 of the width, is rounded up to a multiple of this
    head_drop_path: float = 0.3  # in training

    text: Literal["dinotxt", "nano", "clip"] = "dinotxt"
    text_width: int = 2048  # of a class embedding: both halves, or CLIP's one
    text_layers: int = 24
    text_channels: int = 1280
    text_heads: int = 20
    text_context: int = 77  # [tokens]
    text_vocabulary: int = 49408
    text_checkpointing: bool = True  # in training, recompute the layers' activations instead of keeping them

    def __post_init__(self) -> None:
        if self.kind == "dinotxt" and self.text_width != 2 * self.backbone_width:
            raise ValueError(
                f"{self.name}: text_width must be twice backbone_width={self.backbone_width} "
                f"(a global and a local half), got {self.text_width}"
            )

    @property
    def halves(self) -> int:
        """Number of halves of a class embedding, each as wide as a patch: 2, or 1 for CLIP."""
        return 2 if self.kind == "dinotxt" else 1

    @property
    def width(self) -> int:
        """D, the width of a patch and of one half of a class embedding."""
        return self.text_width // self.halves


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The Semantic Prior Encoder: SAM's image encoder. The default is ViT-L.

    Source: dinov3.seg, section 3; segment-anything, ``build_sam.py``. Layers, input size and freezing are
    reconstructed.
    """

    width: int = 1024
    depth: int = 24  # [blocks]
    heads: int = 16
    global_blocks: tuple[int, ...] = (5, 11, 17, 23)  # 0-based
    window: int = 14  # [patches] of the other blocks
    taps: tuple[int, int] = (
        5,
        11,
    )  # reconstructed: blocks for the decoder's first and second stage
    size: int = 1024  # [px] side of the square that SAM sees; below its own 1024 for a cheap variant
    native_size: int = 1024  # [px] that the position embedding was made for
    channels: int = SAM_CHANNELS
    frozen: bool = True  # reconstructed


@dataclass(frozen=True, kw_only=True)
class LocalGlobalConfig:
    """Settings of local-global inference: the whole photo, and overlapping windows.

    Source: dinov3.seg, section 3 (view, windows, overlap, feature averages).
    """

    view: int = 640  # [px] the photo is resized to this square
    window: int = 384  # [px]
    stride: int = 256  # [px] 384 less the overlap of 128
    fusion: Literal["features", "probabilities"] = "features"  # the latter is CAT-Seg's
    whole: Literal["view", "window"] = "view"  # reconstructed: the size at which the whole photo is seen
    unit_length: bool = True  # reconstructed: normalise local and global features before their average
    background: float = 0.5  # reconstructed: a pixel whose best class has a lower probability is background


@dataclass(frozen=True, kw_only=True)
class Dinov3segConfig:
    """The configuration of a dinov3.seg network, stored in checkpoints and bundles.

    Raises:
        ValueError: a width, head count or half is invalid.
    """

    name: str = "dinov3seg-vitl16"
    vlm: VlmConfig = VlmConfig()
    templates: tuple[str, ...] = ("A photo of a {} in the scene",)
    crop: int = 384  # [px] side of a training crop
    halves: tuple[Half, ...] = ("global", "local")  # text halves that are correlated, one cost channel each

    # Early refinement: AnyUp at the patches' own resolution. Widths and depth are reconstructed.
    early: bool = True
    early_blocks: int = 1
    early_residual: bool = False  # True adds the unrefined patches
    early_query_features: bool = False  # True: queries see the patches too, as keys do
    early_width: int = 128
    early_heads: int = 4
    early_groups: int = 8  # of the encoders' GroupNorm
    early_basis: int = 5  # side of the kernels that bring features of any width to one width
    early_unification: UnificationOrder = "released"  # "formula" for weights that were trained so
    early_window: float = 0.1  # half the side of the attention window, as a share of the image's side
    early_shrink: int = 1  # [px] the image is averaged over so many first; 1 is AnyUp's
    early_theta: float = 100.0  # RoPE: ratio of the highest to the lowest initial frequency

    # Correlation and late refinement, reconstructed from CAT-Seg ViT-L.
    width: int = 128  # C
    cost_kernel: int = 7
    late: bool = True
    late_layers: int = 2  # stated by the paper
    late_heads: int = 4
    late_window: int = 12  # [patches] of the Swin blocks; the second one is shifted by half
    late_mlp: int = 4  # hidden width of both blocks' feed-forward part over C
    guidance_width: int = 128
    class_attention: Literal["linear", "full"] = "linear"
    class_pool: int = 2  # in training, the class block works at this fraction of the resolution
    pad_length: int = 256  # fewer classes are padded to this many; of more, the best are kept
    absent_logit: float = -100.0  # of the classes that were not kept

    prior: PriorConfig | None = PriorConfig()  # None is the ablation without SAM's guidance

    # Decoder, reconstructed from CAT-Seg.
    decoder_widths: tuple[int, int] = (64, 32)
    decoder_prior_widths: tuple[int, int] = (256, 128)  # of SAM's taps after their transposed convolutions
    decoder_guidance_widths: tuple[int, int] = (32, 16)
    decoder_group: int = 16  # channels of a GroupNorm's group

    inference: LocalGlobalConfig = LocalGlobalConfig()

    def __post_init__(self) -> None:
        if not self.halves or len(self.halves) > self.vlm.halves or len(set(self.halves)) < len(self.halves):
            raise ValueError(f"{self.vlm.name} has {self.vlm.halves} text halves, got halves={self.halves}")
        factors = {"width": self.late_heads, "early_width": math.lcm(4, self.early_heads, self.early_groups)}
        for field, factor in factors.items():  # 4: RoPE turns pairs of channels along two axes
            if getattr(self, field) % factor:
                raise ValueError(f"{field} must be a multiple of {factor}, got {getattr(self, field)}")
        for size in (self.crop, self.inference.view, self.inference.window, self.inference.stride):
            if size % self.vlm.patch_size:
                raise ValueError(f"sizes must be multiples of patch_size={self.vlm.patch_size}, got {size}")

    @property
    def patch_size(self) -> int:
        """Side of a patch [px]."""
        return self.vlm.patch_size

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean colour with which photos are normalised."""
        return self.vlm.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of colours with which photos are normalised."""
        return self.vlm.std

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Dinov3segConfig:
        """Rebuild a configuration written by :meth:`to_dict`; unknown or missing fields are a ValueError."""
        values = require_fields(cls, raw, cls.__name__)
        values["vlm"] = VlmConfig(**require_fields(VlmConfig, values["vlm"], VlmConfig.__name__))
        values["inference"] = LocalGlobalConfig(
            **require_fields(LocalGlobalConfig, values["inference"], LocalGlobalConfig.__name__)
        )
        if values["prior"] is not None:
            values["prior"] = PriorConfig(
                **require_fields(PriorConfig, values["prior"], PriorConfig.__name__)
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ZeroShotProtocol:
    """Settings of dino.txt's zero-shot segmentation, without any training for it.

    The official notebook is ambiguous about which patches are compared with text. Its code unpacks ``cls, _,
    patches`` of ``get_class_and_patch_tokens``, whose third value is, in the same repository, the backbone's
    patches after the final norm; its comments and names refer to the patches of the head's blocks. ``head``
    follows the comments, ``backbone`` the published code. It is unknown which gave the paper's figures.

    Source: facebookresearch/dinov3, ``notebooks/dinotxt_segmentation_inference.ipynb``,
    ``dinov3/eval/text/vision_tower.py``.
    """

    short_side: int = 512  # [px], bicubic
    window: int = 384  # [px]
    stride: int = 192  # [px]
    half: Half = "local"  # of the class embedding
    patches: Patches = "head"  # that meet text: the head's, or the backbone's as the notebook's code has it
    templates: str = "imagenet80"  # each prompt's half is normalised, then their mean
