"""SAM: load an official checkpoint, and segment boxes."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovsdino.masks.errors import MaskError
from ovsdino.network.checkpoint import check_values, require_floats
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from segment_anything import SamPredictor

SOURCE = "https://dl.fbaipublicfiles.com/segment_anything"
OFFICIAL = {"vit_b": "sam_vit_b_01ec64.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_h": "sam_vit_h_4b8939.pth"}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB in 0..255; not in the checkpoint
BOXES_AT_ONCE = 32  # full-size masks of so many boxes are in memory together


@dataclass(frozen=True)
class SamShape:
    """The sizes in which SAM's checkpoints differ."""

    width: int  # channels of the image encoder
    depth: int  # its blocks
    heads: int
    patch: int  # [px]
    image_size: int  # [px] side of the input
    window: int  # [patches] side of the windows of attention
    global_blocks: tuple[int, ...]  # blocks that attend to the whole image, from 0
    channels: int  # of the neck's output and of the mask decoder


def read_shape(state: Mapping[str, Tensor]) -> SamShape:
    """Derive the sizes from a checkpoint's tensors.

    Raises:
        KeyError: the tensors are not a SAM checkpoint.
    """
    _, grid, _, width = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    sides: list[int] = []  # relative positions of a side of n patches are 2n - 1
    while (key := f"image_encoder.blocks.{len(sides)}.attn.rel_pos_h") in state:
        sides.append((state[key].shape[0] + 1) // 2)
    heads = width // state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
    return SamShape(
        width=width,
        depth=len(sides),
        heads=heads,
        patch=patch,
        image_size=grid * patch,
        window=min(sides),
        global_blocks=tuple(i for i, side in enumerate(sides) if side == grid),
        channels=state["image_encoder.neck.0.weight"].shape[0],
    )


def build_sam(shape: SamShape) -> torch.nn.Module:
    """Build the network without weights, on device ``meta``; its decoder is the official one."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = shape.image_size // shape.patch
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=shape.image_size,
            patch_size=shape.patch,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=4,
            out_chans=shape.channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window,
            global_attn_indexes=shape.global_blocks,
        )
        prompts = PromptEncoder(
            embed_dim=shape.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=16,
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=shape.channels, mlp_dim=2048, num_heads=8)
        decoder = MaskDecoder(transformer_dim=shape.channels, transformer=transformer)
    sam: torch.nn.Module = Sam(encoder, prompts, decoder, list(MEAN), list(STD)).eval()
    return sam


def load_sam(file: Path, device: str = "cpu") -> torch.nn.Module:
    """Load a SAM checkpoint of any size, strictly.

    Raises:
        MaskError: the file is missing or not a SAM checkpoint; the message holds the command that downloads
            it.
        CheckpointError: the file contains values that are not weights.
    """
    name = file.name if file.name in OFFICIAL.values() else OFFICIAL["vit_h"]
    get = f"curl -L -o {file} {SOURCE}/{name}"
    if not file.is_file():
        raise MaskError(f"{file}: no such file; SAM's checkpoint is wanted, get it: {get}")
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        sam = build_sam(read_shape(state))
        check_values(state, file)
        require_floats(state, state, file)
        state = {key: value.float() for key, value in state.items()}
        sam.load_state_dict(state, strict=True, assign=True)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise MaskError(f"{file}: not SAM's checkpoint ({_short(error)}); get it: {get}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        raise MaskError(f"{file}: damaged ({_short(error)}); get it again: {get}") from error
    return sam.to(device)


class BoxMasks:
    """SAM prompted with boxes, one mask each (multimask off)."""

    def __init__(self, sam: torch.nn.Module) -> None:
        from segment_anything import SamPredictor

        self.predictor: SamPredictor = SamPredictor(sam)

    @torch.inference_mode()
    def __call__(self, photo: Photo, boxes: Tensor) -> list[npt.NDArray[np.bool_]]:
        """Find a mask for each box. Shape: photo (H, W, 3) RGB, boxes (n, 4) corners [px] -> n of (H, W)."""
        size = photo.shape[:2]
        self.predictor.set_image(photo)
        masks: list[npt.NDArray[np.bool_]] = []
        for part in torch.split(boxes, BOXES_AT_ONCE):
            prompts = self.predictor.transform.apply_boxes_torch(part, size).to(self.predictor.device)
            part_masks, _, _ = self.predictor.predict_torch(None, None, boxes=prompts, multimask_output=False)
            masks += list(part_masks[:, 0].cpu().numpy())  # (n, 1, H, W) -> n of (H, W)
        return masks


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
