"""Zero-shot segmentation with dino.txt by its official protocol: the starting point of dinov3.seg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovsdino.dinov3seg.config import VlmConfig, ZeroShotProtocol
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.dinov3seg.tokenizer import tokenize
from ovsdino.dinov3seg.vlm import Vlm, take_half
from ovsdino.network.head import cosine
from ovsdino_runtime.geometry.preprocess import Preprocessing, normalise
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.text.vocabulary import load_templates


def read_photo(photo: Image.Image, config: VlmConfig, protocol: ZeroShotProtocol) -> Tensor:
    """Resize a photo to the protocol's short side (bicubic, the long side rounded down) and normalise it.

    Shape: -> (3, H, W).
    """
    size = [int(protocol.short_side * side / min(photo.size)) for side in photo.size]
    resized = photo.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
    pixels = normalise(np.asarray(resized), Preprocessing(mean=config.mean, std=config.std))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def embed_classes(vlm: Vlm, names: Sequence[str], protocol: ZeroShotProtocol) -> Tensor:
    """Embed each class: average one half over all templates; normalise the prompts and the mean.

    Shape: -> (N, D).
    """
    templates = load_templates(protocol.templates)
    means = []
    for name in names:
        ids = tokenize([template.format(name) for template in templates], vlm.config)
        prompts = F.normalize(take_half(vlm.text(ids), vlm.config, protocol.half), dim=-1)  # (P, D)
        means.append(prompts.mean(0))
    return F.normalize(torch.stack(means), dim=-1)


def predict(vlm: Vlm, photo: Tensor, *, text: Tensor, protocol: ZeroShotProtocol) -> Tensor:
    """Average the softmax of raw cosines over windows; without a temperature, probabilities are uncalibrated.

    A window whose size is not a multiple of the patch is stretched to the next multiple (bicubic).

    Source: facebookresearch/dinov3, ``notebooks/dinotxt_segmentation_inference.ipynb``, ``predict_slide``.

    Shape: photo (3, H, W) normalised, text (N, D) of unit length -> (N, H, W), sums to 1 over N.
    """
    height, width = photo.shape[-2:]
    total = photo.new_zeros(len(text), height, width)
    count = photo.new_zeros(height, width)
    for window in plan_windows(height, width, size=protocol.window, stride=protocol.stride):
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        crop = stretch(photo[None, :, rows, columns], vlm.config.patch_size)
        scores = cosine(encode_patches(vlm, crop, protocol), text)  # (1, N, h, w)
        scores = F.interpolate(scores, (window.height, window.width), mode="bilinear", align_corners=False)
        total[:, rows, columns] += scores[0].softmax(0)
        count[rows, columns] += 1
    return total / count


def encode_patches(vlm: Vlm, pixels: Tensor, protocol: ZeroShotProtocol) -> Tensor:
    """Return the patches that the protocol compares with text: (B, 3, H, W) -> (B, D, h, w).

    Raises:
        ValueError: the protocol requests the backbone's patches, but the model has no vision head.
    """
    if isinstance(vlm.vision, DinoTxtVision):
        return cast(Tensor, vlm.vision(pixels, protocol.patches))
    if protocol.patches != "head":
        raise ValueError(f"{vlm.config.name} has no vision head, so patches must be 'head'")
    return cast(Tensor, vlm.vision(pixels))


def stretch(pixels: Tensor, patch: int) -> Tensor:
    """Stretch sides up to a multiple of the patch: (B, 3, H, W) -> (B, 3, H', W')."""
    height, width = pixels.shape[-2:]
    size = (height + -height % patch, width + -width % patch)
    if size == (height, width):
        return pixels
    return F.interpolate(pixels, size, mode="bicubic", align_corners=False)
