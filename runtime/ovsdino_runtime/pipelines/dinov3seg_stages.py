"""Stages of a dinov3.seg model on the CPU; `dinov3seg` composes them.

view - windows - vision -> FuseFeatures -> refine -> features (1, D, g, g)
   |------------ whole ---------|                       |
   |------------ guidance, in parallel --------------> late -> DecodeCosts -> BestClass -> labels (H, W)
words --------- `text.TextEncoder`, in parallel --------|
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovsdino_runtime.bundle.manifest import Dinov3seg, Graph, Manifest
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.geometry.merge import MergeGeometry, merge_geometry
from ovsdino_runtime.geometry.preprocess import resize_bilinear
from ovsdino_runtime.geometry.types import Floats, Indices
from ovsdino_runtime.geometry.windows import Window

EPSILON = 1e-6  # least length of a feature vector, as in the network
DECODED_AT_ONCE = 8  # classes: more are no faster, and each takes memory
COMPARED_AT_ONCE = 256  # classes


@dataclass(frozen=True)
class GraphStage:
    """A graph of the bundle. It picks its inputs out of all given tensors, by name."""

    graph: Graph
    engine: Engine

    def __call__(self, tensors: Mapping[str, Floats]) -> dict[str, Floats]:
        """Run the graph."""
        return self.engine.run({tensor.name: tensors[tensor.name] for tensor in self.graph.inputs})


@dataclass(frozen=True)
class FuseFeatures:
    """Fuse features of windows and of the whole view: average overlapping windows, then both maps.

    Source: dinov3.seg, section 3, as ``ovsdino.dinov3seg.local_global.fuse_features``.
    """

    dinov3seg: Dinov3seg
    patch: int  # [px]

    def __call__(self, windows: Sequence[Window], local: Floats | None, whole: Floats) -> Floats:
        """Return the fused features; without local features, those of the whole view.

        Shape: local (B, D, s, s), whole (1, D, g', g') -> (1, D, g, g).
        """
        grid = self.dinov3seg.view // self.patch
        parts = [resize_map(whole, grid)]
        if local is not None:
            parts.append(self._average(windows, local, grid))
        if self.dinov3seg.unit_length:
            parts = [unit(part, axis=1) for part in parts]
        fused: Floats = np.mean(parts, axis=0)
        return fused

    def _average(self, windows: Sequence[Window], local: Floats, grid: int) -> Floats:
        total = np.zeros((1, local.shape[1], grid, grid), np.float32)
        count = np.zeros((grid, grid), np.float32)
        for part, window in zip(local, windows, strict=True):
            top, left = window.top // self.patch, window.left // self.patch
            place = (..., slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
            total[place] += part
            count[place] += 1
        return total / count


@dataclass(frozen=True)
class ChooseClasses:
    """If there are too many classes, keep those with the highest cosine anywhere in the photo.

    Source: as ``ovsdino.dinov3seg.correlation.best_classes``.
    """

    dinov3seg: Dinov3seg

    def __call__(self, features: Floats, text: Floats) -> Indices:
        """Return the kept classes in ascending order. Shape: (1, D, g, g), (N, W) -> (K,)."""
        if len(text) <= self.dinov3seg.pad_length:
            return np.arange(len(text))
        patches = unit(features[0].reshape(features.shape[1], -1), axis=0)  # (D, L)
        best = np.full(len(text), -np.inf, np.float32)
        for first in range(0, len(text), COMPARED_AT_ONCE):
            portion = text[first : first + COMPARED_AT_ONCE]
            for start, stop in self.dinov3seg.halves:
                cosines = unit(portion[:, start:stop], axis=1) @ patches  # (n, L)
                part = best[first : first + len(portion)]
                np.maximum(part, cosines.max(axis=1), out=part)
        return np.sort(np.argsort(-best, kind="stable")[: self.dinov3seg.pad_length])


@dataclass(frozen=True)
class DecodeCosts:
    """Decode refined costs into probabilities, a few classes at a time."""

    decoder: GraphStage

    def __call__(self, costs: Floats, guidance: Mapping[str, Floats]) -> Floats:
        """Decode. Shape: (n, C, g, g) -> (n, 4g, 4g) in (0, 1)."""
        return sigmoid(self.logits(costs, guidance))

    def logits(self, costs: Floats, guidance: Mapping[str, Floats]) -> Floats:
        """Decode without the sigmoid. Shape: (n, C, g, g) -> (n, 4g, 4g)."""
        return np.concatenate(
            [
                self.decoder({**guidance, "costs": costs[first : first + DECODED_AT_ONCE]})["logits"]
                for first in range(0, len(costs), DECODED_AT_ONCE)
            ]
        )


def spread(view: int, fine: int, photo: tuple[int, int]) -> MergeGeometry:
    """Return the geometry that resizes maps of (fine, fine) nodes to the view, and then to the photo."""
    whole = Window(top=0, left=0, height=view, width=view)
    return merge_geometry([whole], (fine, fine), resized=(view, view), photo=photo)


def patch_size(manifest: Manifest) -> int:
    """Return the side of a patch [px]."""
    cells = manifest.graphs["vision"].outputs[0].shape[-1]  # along a window
    return manifest.windows.size // int(cells)


def resize_map(maps: Floats, side: int) -> Floats:
    """Resize maps to a square, bilinearly: (1, D, h, w) -> (1, D, side, side)."""
    if maps.shape[2:] == (side, side):
        return maps
    resized = resize_bilinear(maps[0].transpose(1, 2, 0), side, side)  # (side, side, D)
    return np.ascontiguousarray(resized.transpose(2, 0, 1)[None])


def unit(vectors: Floats, *, axis: int) -> Floats:
    """Normalise vectors to unit length."""
    lengths = np.linalg.norm(vectors, axis=axis, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, EPSILON)
    return scaled


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities."""
    with np.errstate(over="ignore"):  # exp(100) is infinite and its inverse 0: as it should be
        probabilities = 1 / (1 + np.exp(-logits))
    return probabilities.astype(np.float32, copy=False)


def portions(count: int, max_count: int) -> Iterable[slice]:
    """Split ``count`` items into slices of at most ``max_count``."""
    return (slice(first, min(first + max_count, count)) for first in range(0, count, max_count))
