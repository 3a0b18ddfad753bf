"""The configuration of OVS-DINO's network, and its presets.

Every choice that the paper does not state is a field with our reconstruction as default; ``docs/systems.md``
lists these choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SAM_CHANNELS = 256  # width of SAM's neck output, the alignment target
SAM_GRID_FACTOR = 2  # SAM's grid (64) over DINOv2's (32)

# Fields that files written by earlier versions lack, with what the network computed then.
ADDED_FIELDS: dict[str, Any] = {
    "fusion": "per-tap",
    "depthwise_residual": False,
    "upsampling": "bilinear",
    "output_kernel": 3,
}


def require_fields(config: type, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check that JSON values contain exactly the fields of a dataclass, and turn lists into tuples.

    Raises:
        ValueError: a field is unknown or missing.
    """
    wrong = raw.keys() ^ {field.name for field in fields(config)}
    if wrong:
        raise ValueError(f"{name}: missing or unknown fields {sorted(wrong)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The configuration of an OVS-DINO network, stored in checkpoints and bundles.

    Start from a preset and change fields; values that cannot work are rejected at once.

    Example:
        >>> from dataclasses import replace
        >>> from ovsdino import OVSDINO, PRESETS
        >>> config = replace(PRESETS["nano"], name="nano-wide", encoder_width=256)
        >>> network = OVSDINO(config)

    Raises:
        ValueError: a size, tap or group count is invalid; the message names valid values.
    """

    name: str = "ovsdino-vitb14"

    # Backbone. Paper: DINOv2 ViT-B/14 without registers, taps {2,4,6,8,10,12}, last three blocks trained.
    backbone: str = "vit_base_patch14_dinov2.lvd142m"  # a timm name
    backbone_width: int = 768  # C
    backbone_depth: int = 12  # [blocks]
    patch_size: int = 14  # [px]
    position_grid: int = 37  # side of the learned position embedding [patches]
    position_offset: float = 0.1  # the official DINOv2 code's interpolation offset; 0 with registers
    position_antialias: bool = False  # True with registers, as the official code has it
    taps: tuple[int, ...] = (2, 4, 6, 8, 10, 12)  # block outputs fed to the SAE, 1-based
    norm_taps: Literal["none", "last", "all"] = "last"  # reconstructed: which taps pass the final norm
    trained_blocks: int = 3  # last blocks of the backbone that learn; 0 is Table 5's frozen DINO
    image_size: int = 448  # [px] reconstructed: side of a window
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    # Structure-Aware Encoder (SAE), equations 7 to 9.
    encoder: bool = True  # False is Table 3's "w/o encoder": the caller gives SAM's features instead
    encoder_width: int = 256  # reconstructed
    fusion: Literal["per-tap", "shared"] = "per-tap"  # reconstructed: one convolution and GroupNorm a tap
    aggregation: Literal["softmax", "free"] = "softmax"  # reconstructed: how eq. 7's weights are bound
    depthwise_residual: bool = False  # reconstructed: eq. 9's layers add their input
    upsampling: Literal["bilinear", "nearest"] = "bilinear"  # reconstructed: of eq. 8
    output_kernel: int = 3  # reconstructed: side of eq. 8's last convolution, odd
    structure_channels: int = SAM_CHANNELS
    norm_groups: int = 32  # reconstructed: groups of every GroupNorm

    # Structure-Modulated Decoder (SMD) and Preservation Gate, equations 13 and 14.
    gate: bool = True  # False is Table 3's "w/o preservation gate": the modulation map goes on alone
    gate_form: Literal["modulate", "tanh", "add", "replace"] = "modulate"  # reconstructed
    gate_width: int = 192  # reconstructed: hidden channels of the residual block
    gate_scale: Literal["scalar", "channel"] = "scalar"  # reconstructed: one alpha, or one a channel
    gate_init: float = 0.0  # reconstructed: alpha at the start; 0 is the identity

    # Projector and head. Paper: a convolution into CLIP ViT-B/16's text space; cosine.
    text_encoder: str = "clip-vit-b-16"  # or "nano"
    text_width: int = 512  # D
    projector_kernel: int = 1  # reconstructed
    logit_scale: float = 10.0  # reconstructed: initial s of s * cos + b
    logit_bias: float = -2.5  # reconstructed: initial b
    background: float = 0.5  # reconstructed: default threshold on sigmoid(s * cos + b)

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            low = self.image_size // self.patch_size * self.patch_size
            raise ValueError(
                f"image_size must be a multiple of patch_size={self.patch_size}, got {self.image_size}; "
                f"the nearest valid sizes are {low} and {low + self.patch_size}"
            )
        if not self.taps or list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"taps must be increasing block numbers, got {self.taps}")
        if not 1 <= self.taps[0] <= self.taps[-1] <= self.backbone_depth:
            raise ValueError(f"taps must lie in 1..{self.backbone_depth} (block outputs), got {self.taps}")
        if self.output_kernel < 1 or self.output_kernel % 2 == 0:
            raise ValueError(
                f"output_kernel must be odd, so that the map keeps its size, got {self.output_kernel}"
            )
        if not 0 <= self.trained_blocks <= self.backbone_depth:
            raise ValueError(
                f"trained_blocks must lie in 0..{self.backbone_depth}, got {self.trained_blocks}"
            )
        for field in ("encoder_width", "structure_channels", "gate_width"):
            if getattr(self, field) % self.norm_groups:
                raise ValueError(
                    f"{field} must be a multiple of norm_groups={self.norm_groups}, "
                    f"got {getattr(self, field)}"
                )

    @property
    def grid(self) -> int:
        """Side of the feature map of one window [patches]."""
        return self.image_size // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelConfig:
        """Rebuild a configuration written by :meth:`to_dict`.

        Raises:
            ValueError: a field is unknown, or missing and not one of :data:`ADDED_FIELDS`.
        """
        return cls(**require_fields(cls, ADDED_FIELDS | raw, "model configuration"))


VITB14 = ModelConfig()

NANO = ModelConfig(
    name="nano",
    backbone="vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    backbone_width=192,
    patch_size=16,
    position_grid=28,
    trained_blocks=12,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    encoder_width=128,
    structure_channels=128,
    gate_width=96,
    text_encoder="nano",
    text_width=384,
    background=0.3,
)

NANO_TAPER = 0.5  # how nano weighs windows where they overlap: measured, docs/measurements

PRESETS: dict[str, ModelConfig] = {
    "ovsdino-vitb14": VITB14,
    "nano": NANO,
    # The ablations of Tables 2, 3 and 5, and those of them that nano can follow.
    "ovsdino-vitb14-no-encoder": replace(VITB14, name="ovsdino-vitb14-no-encoder", encoder=False),
    "ovsdino-vitb14-no-gate": replace(VITB14, name="ovsdino-vitb14-no-gate", gate=False),
    "ovsdino-vitb14-four-taps": replace(VITB14, name="ovsdino-vitb14-four-taps", taps=(3, 6, 9, 12)),
    "ovsdino-vitb14-frozen": replace(VITB14, name="ovsdino-vitb14-frozen", trained_blocks=0),
    "ovsdino-vitb16-dino": replace(
        VITB14,
        name="ovsdino-vitb16-dino",
        backbone="vit_base_patch16_224.dino",
        patch_size=16,
        position_grid=14,
    ),
    "ovsdino-vitb14-registers": replace(
        VITB14,
        name="ovsdino-vitb14-registers",
        backbone="vit_base_patch14_reg4_dinov2.lvd142m",
        position_offset=0.0,
        position_antialias=True,
    ),
    "nano-no-gate": replace(NANO, name="nano-no-gate", gate=False),
    "nano-four-taps": replace(NANO, name="nano-four-taps", taps=(3, 6, 9, 12)),
    "nano-frozen": replace(NANO, name="nano-frozen", trained_blocks=0),
}


def window_taper(config: ModelConfig) -> float | None:
    """Return the ``WindowPolicy.taper`` of a model: how overlapping windows are weighted.

    The paper averages windows without weights, and so do all presets except those of nano.
    """
    return NANO_TAPER if config.text_encoder == NANO.text_encoder else None
