"""Validate dinov3.seg on labelled photos with its local-global inference."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.local_global import predict
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.training.systems.validation import Labels
from ovsdino_runtime.geometry.preprocess import Preprocessing, normalise
from ovsdino_runtime.geometry.types import Photo


def read_pixels(photo: Photo, config: Dinov3segConfig) -> Tensor:
    """Normalise a photo: (H, W, 3) -> (1, 3, H, W)."""
    pixels = normalise(photo, Preprocessing(mean=config.mean, std=config.std))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


@torch.inference_mode()
def label_view(model: Dinov3Seg, photo: Photo, text: Tensor, *, background: bool) -> Labels:
    """Label each pixel with the most probable class, or as background if none is probable.

    Source: dinov3.seg, section 3 (local-global inference); the background is our reconstruction.

    Shape: photo (H, W, 3), text (N, text width) -> (H, W), in 0..N-1, or 0..N with a background.
    """
    config, device = model.config, next(model.parameters()).device
    scores = predict(model, read_pixels(photo, config).to(device), text)  # (1, N, V, V)
    dense = F.interpolate(scores, photo.shape[:2], mode="bilinear", align_corners=False)[0]  # (N, H, W)
    best, labels = dense.max(0)
    if background:
        labels = torch.where(best < config.inference.background, 0, labels + 1)
    return labels.to(torch.int32).cpu().numpy()
