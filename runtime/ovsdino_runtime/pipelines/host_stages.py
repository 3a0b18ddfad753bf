"""Stages on the CPU, one callable each; `pipeline` composes them.

photo - Prepare ---> windows - EncodeWindows ---> features (B, D, h, w)
words ---------------------------------------------> text (N, D)        Merge --> labels (H, W)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import Inference, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Head, Manifest
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.geometry.merge import MergeGeometry, merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import (
    fill_windows,
    fit_size,
    normalise,
    resize_bilinear,
    resize_photo,
)
from ovsdino_runtime.geometry.presence import present_classes
from ovsdino_runtime.geometry.refine import (
    NO_BACKGROUND,
    RefineGeometry,
    Refinement,
    coarse_size,
    refine_argmax,
)
from ovsdino_runtime.geometry.types import Floats, Labels, Photo, Scores
from ovsdino_runtime.geometry.whole_photo import blend_whole
from ovsdino_runtime.geometry.windows import Window, plan_windows

MIN_THRESHOLD = 1e-9  # on the confidence
WINDOWS_AT_ONCE = 1  # two together take 10 % longer on a CPU, whose caches hold less of each, and more memory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A resized photo and its windows, ready for the vision engine."""

    size: tuple[int, int]  # height and width of the photo [px]
    resized: Photo | Floats  # (H', W', 3); floats, not rounded, for dinov3.seg's view
    windows: tuple[Window, ...]
    whole: Photo | None = None  # the photo for one look at all of it, beside the windows


@dataclass(frozen=True)
class Prepare:
    """Resize a photo and plan its windows."""

    manifest: Manifest
    antialias: bool = True
    inference: Inference = "slide"

    def __call__(self, photo: Photo) -> Prepared:
        """Prepare a photo. Shape: (H, W, 3)."""
        resized = self.resize(photo)
        whole = None
        if self.inference == "both":
            whole = resize_photo(photo, *self._whole(*resized.shape[:2]), antialias=self.antialias)
        return Prepared(
            size=(photo.shape[0], photo.shape[1]),
            resized=resized,
            windows=tuple(self.plan(resized)),
            whole=whole,
        )

    def resize(self, photo: Photo) -> Photo | Floats:
        """Resize a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        if self.manifest.dinov3seg is not None:  # exactly as in training: two taps a side, not rounded
            return resize_bilinear(photo, self.manifest.dinov3seg.view, self.manifest.dinov3seg.view)
        limits = self.manifest.preprocessing
        height, width = fit_size(*photo.shape[:2], short_side=limits.short_side, long_side=limits.long_side)
        if self.inference == "whole":
            height, width = self._whole(height, width)
        return resize_photo(photo, height, width, antialias=self.antialias)

    def plan(self, resized: Photo | Floats) -> list[Window]:
        """Plan the windows of a resized photo; with inference "whole", a single one."""
        height, width = resized.shape[:2]
        if self.inference == "whole":
            return [Window(top=0, left=0, height=height, width=width)]
        policy = self.manifest.windows
        return plan_windows(height, width, size=policy.size, stride=policy.stride)

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Round a size to whole patches if the graph takes any size, else return the size of the graph."""
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
    """Compute the features of windows: normalise, cut, and run the vision engine in batches."""

    manifest: Manifest
    vision: Engine
    inference: Inference = "slide"

    def __call__(self, prepared: Prepared) -> Floats:
        """Encode the windows of a photo. Shape: (B, D, h, w)."""
        if self.inference == "whole":  # nothing is cut
            return self._encode_whole(prepared.resized)
        features = self._encode_windows(prepared.resized, prepared.windows)  # (B, D, h, w)
        if prepared.whole is None:
            return features
        size = prepared.resized.shape[0], prepared.resized.shape[1]
        return blend_whole(features, self._encode_whole(prepared.whole), prepared.windows, resized=size)

    def _encode_whole(self, photo: Photo | Floats) -> Floats:
        """Encode a photo in one run. Shape: (H', W', 3) -> (1, D, h', w')."""
        pixels = normalise(photo, self.manifest.preprocessing).transpose(2, 0, 1)[None]  # (1, 3, H', W')
        return self.vision.run({"pixels": np.ascontiguousarray(pixels)})["features"]

    def _encode_windows(self, resized: Photo | Floats, windows: Sequence[Window]) -> Floats:
        size = self.manifest.windows.size
        # The same memory for all windows: fresh memory takes longer than what is written into it.
        batch = np.empty((min(WINDOWS_AT_ONCE, len(windows)), 3, size, size), np.float32)
        outputs: list[Floats] = []
        for first in range(0, len(windows), WINDOWS_AT_ONCE):
            part = windows[first : first + WINDOWS_AT_ONCE]
            pixels = batch[: len(part)]
            fill_windows(pixels, resized, windows=part, preprocessing=self.manifest.preprocessing)
            outputs.append(self.vision.run({"pixels": pixels})["features"])
        return np.concatenate(outputs)


@dataclass(frozen=True)
class Merge:
    """Compute labels from features and embeddings: cosine head, merge of windows, background.

    Args:
        manifest: manifest of the model.
        refinement: how labels are refined; None does not refine them.
        presence: without a background, classes that nowhere reach this confidence are left out.
    """

    manifest: Manifest
    refinement: Refinement | None = None
    presence: float | None = None

    def __call__(
        self, prepared: Prepared, features: Floats, text: Floats, *, threshold: float | None
    ) -> tuple[Labels, Scores]:
        """Find each pixel's class and the confidence in it. Shape: (B, D, h, w), (N, D) -> (H, W) each."""
        if self.presence is not None and threshold is None:
            present = present_classes(features, text, cosine_threshold(self.presence, self.manifest.head))
            labels, scores = replace(self, presence=None)(prepared, features, text[present], threshold=None)
            return present.astype(labels.dtype)[labels], scores
        if self.refinement is not None:
            labels, cosine = self._refine(
                prepared, features, text=text, threshold=threshold, refinement=self.refinement
            )
        else:
            labels, cosine = merge_argmax(features, text, self._geometry(prepared, features, prepared.size))
        return put_background(labels, confidence(cosine, self.manifest.head), threshold)

    def _refine(
        self,
        prepared: Prepared,
        features: Floats,
        *,
        text: Floats,
        threshold: float | None,
        refinement: Refinement,
    ) -> tuple[Labels, Floats]:
        """Find each pixel's class and its cosine. Shape: (H, W) each."""
        resized = np.asarray(prepared.resized, np.uint8)
        size = coarse_size((resized.shape[0], resized.shape[1]))
        window = prepared.windows[0]
        geometry = RefineGeometry(
            merge=self._geometry(prepared, features, size),
            guide=resize_photo(resized, *size, antialias=True),
            cell=max(window.height / features.shape[2], window.width / features.shape[3]) / 2,
            photo=prepared.size,
        )
        cosine = cosine_threshold(threshold, self.manifest.head)
        return refine_argmax(features, text, geometry, threshold=cosine, refinement=refinement)

    def _geometry(self, prepared: Prepared, features: Floats, size: tuple[int, int]) -> MergeGeometry:
        grid = features.shape[2], features.shape[3]
        resized = prepared.resized.shape[0], prepared.resized.shape[1]
        taper = self.manifest.windows.taper
        return merge_geometry(prepared.windows, grid, resized=resized, photo=size, taper=taper)


def choose_refinement(manifest: Manifest, options: RuntimeOptions) -> Refinement | None:
    """Return the refinement that the options request, else the bundle's default; None for no refinement.

    Raises:
        EngineError: the model is a dinov3.seg, whose decoder refines outlines itself.
    """
    wanted = manifest.refine is not None if options.refine is None else options.refine
    if manifest.dinov3seg is not None and (wanted or options.min_area is not None):
        raise EngineError(f"{manifest.name} draws outlines with its decoder and cannot be refined")
    if manifest.dinov3seg is not None and options.presence is not None:
        raise EngineError(f"{manifest.name} chooses its classes itself; leave presence out")
    if not wanted:
        if options.min_area is not None:
            raise EngineError(f"min_area has no effect on {manifest.name}, which does not refine; add refine")
        return None
    refinement = manifest.refine or Refinement()
    return refinement if options.min_area is None else replace(refinement, min_area=options.min_area)


def cosine_threshold(threshold: float | None, head: Head) -> float:
    """Convert a threshold on the confidence to one on the cosine: the inverse of `confidence`."""
    if threshold is None:
        return NO_BACKGROUND
    inside = min(max(threshold, MIN_THRESHOLD), 1 - MIN_THRESHOLD)  # 0 and 1 would be infinite
    return (math.log(inside / (1 - inside)) - head.bias) / head.scale


def confidence(cosine: Floats, head: Head) -> Floats:
    """Convert cosines to confidence in (0, 1), in place: ``sigmoid(scale * cosine + bias)``."""
    logits = np.multiply(cosine, -head.scale, out=cosine)
    logits -= head.bias
    np.exp(logits, out=logits)
    logits += 1
    return np.divide(1, logits, out=logits)


def put_background(labels: Labels, confidence: Floats, threshold: float | None) -> tuple[Labels, Scores]:
    """Label pixels below the threshold as background, 0; classes are then numbered from 1.

    Without a threshold every pixel keeps its class, numbered from 0. Shape: (H, W) each, kept.
    """
    if threshold is not None:
        unsure = confidence < threshold
        labels = np.where(unsure, 0, labels + 1).astype(np.uint16)
        confidence = np.where(unsure, 1 - confidence, confidence)
    return labels, confidence.astype(np.float16)
