"""Local-global inference: average features of the whole photo and of overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.config import LocalGlobalConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.head import unit
from ovsdino_runtime.geometry.windows import Window, plan_windows


def predict(model: Dinov3Seg, photo: Tensor, text: Tensor) -> Tensor:
    """Return the probability of each class on the square view.

    ``features`` (the paper's): average the VLM features of windows and whole, then refine and decode once.
    ``probabilities`` (CAT-Seg's): segment each window, and the whole at a window's size, then average.

    Source: dinov3.seg, section 3; CAT-Seg, ``inference_sliding_window``.

    Args:
        model: the network; its configuration selects the method.
        photo: normalised photos of any size.
        text: class embeddings, as ``model.vlm.text`` returns them.

    Shape: photo (B, 3, H, W), text (N, text width) -> (B, N, view, view) in (0, 1).
    """
    config = model.config.inference
    view = resize(photo, config.view)  # (B, 3, V, V)
    if config.fusion == "probabilities":
        return fuse_probabilities(model, view, text)
    return resize(view_logits(model, view, text).sigmoid(), config.view)


def view_logits(model: Dinov3Seg, view: Tensor, text: Tensor) -> Tensor:
    """Fuse features, refine and decode once: view (B, 3, V, V), text (N, text width) -> (B, N, 4g, 4g)."""
    patches = model.refine_patches(view, fuse_features(model, view))  # (B, D, g, g)
    return model.decode(patches, model.see_prior(view), text=text)


def labels(scores: Tensor, height: int, width: int) -> Tensor:
    """Resize scores to a photo [px] and return the best class. Shape: (B, N, h, w) -> (B, H, W)."""
    return F.interpolate(scores, (height, width), mode="bilinear", align_corners=False).argmax(1)


def fuse_features(model: Dinov3Seg, view: Tensor) -> Tensor:
    """Average features of all windows, then with those of the whole view: (B, 3, V, V) -> (B, D, g, g)."""
    config, patch = model.config.inference, model.config.vlm.patch_size
    grid = config.view // patch
    windows = _windows(config)
    crops = torch.cat([_crop(view, window) for window in windows])  # (n * B, 3, s, s)
    parts = model.vlm.vision(crops).chunk(len(windows))  # n x (B, D, s / patch, s / patch)
    on_grid = [Window(*(value // patch for value in (w.top, w.left, w.height, w.width))) for w in windows]
    local = average_windows(parts, on_grid, grid)  # (B, D, g, g)
    whole_photo = view if config.whole == "view" else resize(view, config.window)
    whole = resize(model.vlm.vision(whole_photo), grid)  # (B, D, g, g)
    if config.unit_length:
        local, whole = unit(local), unit(whole)
    return (local + whole) / 2


def fuse_probabilities(model: Dinov3Seg, view: Tensor, text: Tensor) -> Tensor:
    """Average the probabilities of all windows, then with those of the whole view: -> (B, N, V, V)."""
    config = model.config.inference
    windows = _windows(config)
    parts = [resize(model(_crop(view, w), text).sigmoid(), config.window) for w in windows]
    local = average_windows(parts, windows, config.view)
    whole = resize(model(resize(view, config.window), text).sigmoid(), config.view)
    return (local + whole) / 2


def average_windows(parts: Sequence[Tensor], windows: Sequence[Window], side: int) -> Tensor:
    """Join the maps of windows; average them where they overlap.

    Shape: n x (B, C, s, s), windows in the same unit as ``side`` -> (B, C, side, side).
    """
    total = parts[0].new_zeros(*parts[0].shape[:2], side, side)
    count = parts[0].new_zeros(side, side)
    for part, window in zip(parts, windows, strict=True):
        place = (..., *_slices(window))
        total[place] += part
        count[place] += 1
    return total / count


def resize(x: Tensor, side: int) -> Tensor:
    """Resize to a square: (B, C, h, w) -> (B, C, side, side)."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def _windows(config: LocalGlobalConfig) -> list[Window]:
    return plan_windows(config.view, config.view, size=config.window, stride=config.stride)


def _crop(view: Tensor, window: Window) -> Tensor:
    return view[(..., *_slices(window))]


def _slices(window: Window) -> tuple[slice, slice]:
    rows = slice(window.top, window.top + window.height)
    return rows, slice(window.left, window.left + window.width)
