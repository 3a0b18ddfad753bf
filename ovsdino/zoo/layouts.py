"""The layouts of official checkpoints, recognised by their keys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ovsdino.network.checkpoint import CheckpointError, shorten


@dataclass(frozen=True)
class CheckpointLayout:
    """The key names of a project's checkpoints, and their licence."""

    name: str
    what: str
    marks: frozenset[str]  # keys that every such file has
    licence: str
    source: str


DINOV3_LICENCE = "DINOv3 License"
LAYOUTS = (
    CheckpointLayout(
        name="talk2dino-whole",
        what="Talk2DINO with its DINO and CLIP, as on the Hub",
        marks=frozenset({"proj.linear_layer.weight", "clip_model.token_embedding.weight", "model.cls_token"}),
        licence="projection: see its model page; DINOv2: Apache-2.0, DINOv3: DINOv3 License; CLIP: MIT",
        source="https://huggingface.co/lorebianchi98",
    ),
    CheckpointLayout(
        name="talk2dino",
        what="Talk2DINO's projection",
        marks=frozenset({"linear_layer.weight", "linear_layer.bias"}),
        licence="none stated in its repository",
        source="https://github.com/lorebianchi98/Talk2DINO",
    ),
    CheckpointLayout(
        name="dinotxt",
        what="dino.txt's vision head and text encoder",
        marks=frozenset(
            {"logit_scale", "visual_model.head.ln_final.weight", "text_model.backbone.token_embedding.weight"}
        ),
        licence=DINOV3_LICENCE,
        source="https://github.com/facebookresearch/dinov3",
    ),
    CheckpointLayout(
        name="sam",
        what="Segment Anything",
        marks=frozenset(
            {"image_encoder.pos_embed", "image_encoder.neck.0.weight", "mask_decoder.iou_token.weight"}
        ),
        licence="Apache-2.0",
        source="https://github.com/facebookresearch/segment-anything",
    ),
    CheckpointLayout(
        name="clip",
        what="CLIP",
        marks=frozenset(
            {"token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight"}
            | {"transformer.resblocks.0.attn.in_proj_weight"}
        ),
        licence="MIT",
        source="https://github.com/openai/CLIP",
    ),
    CheckpointLayout(
        name="dinov3",
        what="a DINOv3 backbone",
        marks=frozenset({"cls_token", "storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.weight"}),
        licence=DINOV3_LICENCE,
        source="https://github.com/facebookresearch/dinov3",
    ),
    CheckpointLayout(
        name="dinov2",
        what="a DINOv2 backbone",
        marks=frozenset(
            {"cls_token", "mask_token", "pos_embed", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"}
        ),
        licence="Apache-2.0",
        source="https://github.com/facebookresearch/dinov2",
    ),
)


def recognise(keys: Collection[str]) -> CheckpointLayout | None:
    """Return the layout of a file with these keys; None if it is unknown."""
    names = frozenset(keys)
    return next((layout for layout in LAYOUTS if layout.marks <= names), None)


def require_layout(tensors: dict[str, Tensor], path: Path) -> CheckpointLayout:
    """Return the layout of a file.

    Raises:
        CheckpointError: the layout is unknown; the message lists a few keys.
    """
    layout = recognise(tensors)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        keys = shorten(sorted(tensors)) or "no tensor"
        raise CheckpointError(
            f"{path}: layout unknown (known: {known}); it holds {len(tensors)} tensors: {keys}"
        )
    return layout
