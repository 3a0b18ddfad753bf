"""The stages on the processor, one callable each; `pipeline` composes them.

photo - Prepare ---> windows - EncodeWindows ---> features (B, D, h, w)
words ---------------------------------------------> text (N, D)        Merge --> labels (H, W)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovsdino_runtime.base.options import Inference
from ovsdino_runtime.bundle.bundle import Head, Manifest
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.geometry.merge import merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import (
    cut_windows,
    fit_size,
    normalise,
    resize_bilinear,
    resize_photo,
)
from ovsdino_runtime.geometry.types import Floats, Labels, Photo, Scores
from ovsdino_runtime.geometry.windows import Window, plan_windows

WINDOWS_AT_ONCE = 1  # two together take 10 % longer on a CPU, whose caches hold less of each, and more memory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo as the vision engine takes it."""

    size: tuple[int, int]  # height and width of the photo [px]
    resized: Photo | Floats  # (H', W', 3); floats, not rounded, for dinov3.seg's view
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Prepare:
    """Photo to windows: resize, and plan the cuts."""

    manifest: Manifest
    antialias: bool = True
    inference: Inference = "slide"

    def __call__(self, photo: Photo) -> Prepared:
        """Prepare a photo. Shape: (H, W, 3)."""
        resized = self.resize(photo)
        return Prepared((photo.shape[0], photo.shape[1]), resized, tuple(self.plan(resized)))

    def resize(self, photo: Photo) -> Photo | Floats:
        """Bring a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        if self.manifest.dinov3seg is not None:  # exactly as in training: two taps a side, not rounded
            return resize_bilinear(photo, self.manifest.dinov3seg.view, self.manifest.dinov3seg.view)
        limits = self.manifest.preprocessing
        height, width = fit_size(*photo.shape[:2], short_side=limits.short_side, long_side=limits.long_side)
        if self.inference == "whole":
            height, width = self._whole(height, width)
        return resize_photo(photo, height, width, antialias=self.antialias)

    def plan(self, resized: Photo | Floats) -> list[Window]:
        """Plan the windows of a resized photo; without windows it is one."""
        height, width = resized.shape[:2]
        if self.inference == "whole":
            return [Window(0, 0, height, width)]
        policy = self.manifest.windows
        return plan_windows(height, width, size=policy.size, stride=policy.stride)

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Whole patches where the graph takes any size, else the one size that it takes."""
        patch, size = self.manifest.model.get("patch_size"), self.manifest.windows.size
        if isinstance(patch, int) and takes_any_size(self.manifest):
            return max(1, round(height / patch)) * patch, max(1, round(width / patch)) * patch
        return size, size


def takes_any_size(manifest: Manifest) -> bool:
    """Tell whether the vision graph takes photos of any size that is whole patches."""
    pixels = manifest.graphs["vision"].inputs[0].shape  # (B, 3, H, W)
    return isinstance(manifest.model.get("patch_size"), int) and all(
        isinstance(side, str) for side in pixels[2:]
    )


@dataclass(frozen=True)
class EncodeWindows:
    """Windows to features: normalise, cut, and run the vision engine on some at a time."""

    manifest: Manifest
    vision: Engine
    inference: Inference = "slide"

    def __call__(self, resized: Photo | Floats, windows: Sequence[Window]) -> Floats:
        """Encode the windows of a resized photo. Shape: (H', W', 3) -> (B, D, h, w)."""
        pixels = normalise(resized, self.manifest.preprocessing)
        if self.inference == "whole":  # nothing is cut
            whole = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, H', W')
            return self.vision.run({"pixels": whole})["features"]
        size = self.manifest.windows.size
        features = [
            self.vision.run({"pixels": cut_windows(pixels, windows[i : i + WINDOWS_AT_ONCE], size)})
            for i in range(0, len(windows), WINDOWS_AT_ONCE)
        ]
        return np.concatenate([some["features"] for some in features])


@dataclass(frozen=True)
class Merge:
    """Turn features and text into labels: the cosine head, the windows' merge, and the background."""

    manifest: Manifest

    def __call__(
        self, prepared: Prepared, features: Floats, text: Floats, *, threshold: float | None
    ) -> tuple[Labels, Scores]:
        """Find each pixel's class and the confidence in it. Shape: (B, D, h, w), (N, D) -> (H, W) each."""
        grid = features.shape[2], features.shape[3]
        size = prepared.resized.shape[0], prepared.resized.shape[1]
        taper = self.manifest.windows.taper
        geometry = merge_geometry(prepared.windows, grid, resized=size, photo=prepared.size, taper=taper)
        labels, cosine = merge_argmax(features, text, geometry)  # (H, W) each
        return put_background(labels, confidence(cosine, self.manifest.head), threshold)


def confidence(cosine: Floats, head: Head) -> Floats:
    """Turn cosines into confidence in (0, 1), in their memory: ``sigmoid(scale * cosine + bias)``."""
    logits = np.multiply(cosine, -head.scale, out=cosine)
    logits -= head.bias
    np.exp(logits, out=logits)
    logits += 1
    return np.divide(1, logits, out=logits)


def put_background(labels: Labels, confidence: Floats, threshold: float | None) -> tuple[Labels, Scores]:
    """Make pixels that are less sure than the threshold background, label 0; the classes follow from 1.

    Without a threshold every pixel keeps its class, and classes begin at 0. Shape: (H, W) each, kept.
    """
    if threshold is not None:
        unsure = confidence < threshold
        labels = np.where(unsure, 0, labels + 1).astype(np.uint16)
        confidence = np.where(unsure, 1 - confidence, confidence)
    return labels, confidence.astype(np.float16)
